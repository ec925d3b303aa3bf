// What the range before the one that is shown weighed: whoever looks wants to know whether this is more than usual.

import { Question, type Parameters, type Services } from "./api.js";
import { levelled } from "./levels.js";
import type { Between } from "./state.js";
import { within } from "./within.js";

/** The range before is asked for anew when it has moved by this part of itself. */
const PARTS = 20;
/** Points of the answer: history that does not reach back to the first of them does not cover the range. */
const POINTS = 5;

export class Earlier {
  private readonly question = new Question<Services>();
  private asked = "";
  private answer: Services | null = null;

  /** Asks, if that is due, and tells whether there is anything new to say; `shown` is the range that is shown, the rest of the question is that of what is shown. */
  async ask(shown: Between, parameters: Parameters): Promise<boolean> {
    const length = shown.until - shown.from;
    const part = Math.max(1, Math.floor(length / PARTS));
    const until = Math.floor(shown.from / part) * part;
    const asked = { ...parameters, from: until - length, until, points: POINTS };
    if (JSON.stringify(asked) === this.asked) return false;
    const { value } = await this.question.ask("api/services", asked);
    this.asked = JSON.stringify(asked);
    const said = this.covers;
    this.answer = levelled(value);
    return said || this.covers;
  }

  /** History reaches back to where it was asked for. */
  private get covers(): boolean {
    return this.answer !== null && this.answer.services.some(({ points }) => points[0]! > 0);
  }

  /** What was there before `part` of `shown`, or before all of it; `null` where history does not say. */
  before(shown: Services, part: Between | null): Services | null {
    if (part !== null) {
      const from = part.from - (part.until - part.from);
      return from < shown.from_ms ? null : within(shown, { from, until: part.from });
    }
    const { answer, covers } = this;
    return answer !== null && covers && answer.type === shown.type && answer.group === shown.group ? answer : null;
  }
}
