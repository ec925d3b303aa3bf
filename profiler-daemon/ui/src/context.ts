// What the parts of the page share: what was chosen and how to choose, the one tooltip, the one menu.

import type { Theme } from "./colors.js";
import type { Tooltip } from "./dom.js";
import type { Menu } from "./menu.js";
import type { Range, Services } from "./api.js";
import type { State } from "./state.js";

export interface Context {
  readonly state: State;
  /** Takes a choice over; a `step` is one that the browser's back button takes back. */
  choose(change: Partial<State>, step?: boolean): void;
  readonly theme: Theme;
  /** The type that is shown. */
  readonly type: string;
  /** The range that is shown. */
  readonly range: Range;
  /** How long of it something was measured, milliseconds. */
  readonly measuredMs: number;
  /** What was there in as much time before; `null` where history does not say. */
  readonly before: Services | null;
  readonly tooltip: Tooltip;
  readonly menu: Menu;
  /** Says for a moment that something was done, or why it was not. */
  notify(text: string): void;
}
