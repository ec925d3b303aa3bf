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

  /** Asks, if that is due; `shown` is the range that is shown, the rest of the question is that of what is shown. */
  async ask(shown: Between, parameters: Parameters): Promise<void> {
    const length = shown.until - shown.from;
    const part = Math.max(1, Math.floor(length / PARTS));
    const until = Math.floor(shown.from / part) * part;
    const asked = { ...parameters, from: until - length, until, points: POINTS };
    if (JSON.stringify(asked) === this.asked) return;
    const { value } = await this.question.ask("api/services", asked);
    this.asked = JSON.stringify(asked);
    this.answer = levelled(value);
  }

  /** What was there before `part` of `shown`, or before all of it; `null` where history does not say. */
  before(shown: Services, part: Between | null): Services | null {
    if (part !== null) {
      const from = part.from - (part.until - part.from);
      return from < shown.from_ms ? null : within(shown, { from, until: part.from });
    }
    const { answer } = this;
    const covers = answer !== null && answer.services.some(({ points }) => points[0]! > 0);
    return covers && answer.type === shown.type && answer.group === shown.group ? answer : null;
  }
}
