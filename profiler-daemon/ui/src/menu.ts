// The one menu: what can be done with a frame, and what hangs below buttons.

import { el } from "./dom.js";

export interface Item {
  label: string;
  /** A second line, or a key. */
  detail?: string;
  checked?: boolean;
  act(): void;
}

export class Menu {
  private readonly element = el("div", { class: "menu", role: "menu", hidden: true, "aria-label": "Actions" });
  /** What had the focus, and whether it is the button that the menu hangs below. */
  private before: HTMLElement | null = null;
  private button = false;

  constructor() {
    // What is offered is part of the page's content.
    document.querySelector("main")!.append(this.element);
    document.addEventListener("pointerdown", (event) => {
      const inside = (element: HTMLElement | null) => element?.contains(event.target as Node) === true;
      // A press on the button that opened it closes it by its click.
      if (this.open && !inside(this.element) && !(this.button && inside(this.before))) this.close();
    });
    window.addEventListener("blur", () => this.close());
    window.addEventListener("resize", () => this.close());
    this.element.addEventListener("contextmenu", (event) => event.preventDefault());
    this.element.addEventListener("keydown", (event) => this.key(event));
  }

  get open(): boolean {
    return !this.element.hidden;
  }

  /** Opens below a button. */
  below(button: HTMLElement, items: readonly Item[]): void {
    if (this.open && this.before === button) return this.close();
    const { left, bottom } = button.getBoundingClientRect();
    this.show(left, bottom + 4, items, "", button);
    this.button = true;
  }

  /** Opens at a place of the window; `title` says what it is about. */
  show(x: number, y: number, items: readonly Item[], title = "", before = document.activeElement as HTMLElement | null): void {
    this.before = before;
    this.button = false;
    const buttons = items.map((item) => {
      const checkable = item.checked !== undefined;
      const button = el(
        "button",
        { type: "button", role: checkable ? "menuitemcheckbox" : "menuitem", tabindex: "-1", "data-item": item.label, ...(checkable ? { "aria-checked": String(item.checked) } : {}) },
        el("span", { class: "menu-label" }, item.label),
        item.detail === undefined ? null : el("span", { class: "menu-detail" }, item.detail),
      );
      button.addEventListener("click", () => {
        this.close();
        item.act();
      });
      return button;
    });
    const head = title === "" ? [] : [el("div", { class: "menu-title", role: "presentation" }, title)];
    this.element.replaceChildren(...head, ...buttons);
    this.element.hidden = false;
    const { width, height } = this.element.getBoundingClientRect();
    const left = Math.max(8, Math.min(x, window.innerWidth - width - 8));
    const top = Math.max(8, Math.min(y, window.innerHeight - height - 8));
    this.element.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
    buttons[0]?.focus({ preventScroll: true });
  }

  close(): void {
    if (this.element.hidden) return;
    const inside = this.element.contains(document.activeElement);
    this.element.hidden = true;
    if (inside) this.before?.focus({ preventScroll: true });
  }

  /** What it offers, for tests. */
  get labels(): string[] | null {
    return this.open ? [...this.element.querySelectorAll(".menu-label")].map((label) => label.textContent ?? "") : null;
  }

  private key(event: KeyboardEvent): void {
    const buttons = [...this.element.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement as HTMLButtonElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to !== undefined) buttons[(to + buttons.length) % buttons.length]?.focus();
    else if (event.key === "Escape" || event.key === "Tab") this.close();
    else if (event.key === "Enter" || event.key === " ") return event.stopPropagation();
    event.preventDefault();
    event.stopPropagation();
  }
}
