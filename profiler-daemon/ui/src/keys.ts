// Keys of the whole page. Those of the flame graph, of menus and of forms are theirs.

/** What a key does; `null` for a key that does nothing. */
export type Keys = (key: string) => (() => void) | null;

/** Runs what `keys` says for each key that is pressed outside of fields and dialogs. */
export function listen(keys: Keys, idle: () => boolean): void {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !idle()) return;
    if (event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement) return;
    const act = keys(event.key);
    if (act === null) return;
    event.preventDefault();
    act();
  });
}
