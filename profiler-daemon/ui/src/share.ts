// The link to what is seen: as it goes on, or as it stands now.

import type { Context } from "./context.js";
import { byId } from "./dom.js";
import { clock } from "./format.js";
import { write, type Between } from "./state.js";

export class Share {
  /** `shown` is the range that is shown. */
  constructor(
    private readonly context: Context,
    private readonly shown: () => Between | null,
  ) {
    byId("share").addEventListener("click", () => this.offer());
  }

  private offer(): void {
    const { state, menu } = this.context;
    const fixed = this.shown();
    const stands = state.fixed !== null || fixed === null;
    const at = fixed === null ? "" : `stands at ${clock(fixed.from, false)} – ${clock(fixed.until, false)}`;
    menu.below(byId("share"), [
      { label: "Copy link", detail: stands ? at : "goes on with the time", act: () => void this.copy(write(state)) },
      ...(stands ? [] : [{ label: "Copy link to this moment", detail: at, act: () => void this.copy(write({ ...state, fixed })) }]),
    ]);
  }

  /** What lets one in, if the address has it, is not for others. */
  private async copy(hash: string): Promise<void> {
    try {
      await navigator.clipboard.writeText(`${location.origin}${location.pathname}${hash}`);
      this.context.notify("The link is copied");
    } catch {
      this.context.notify("This browser does not let the page copy: the address above is the link");
    }
  }
}
