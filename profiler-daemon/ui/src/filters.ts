// The row of label filters: a chip for each, and a small form that adds one from what the server has seen.

import { labelNames, labelValues } from "./api.js";
import type { Context } from "./context.js";
import { byId, el } from "./dom.js";
import { OPERATORS, type Filter, type Operator } from "./selector.js";
import { GROUP } from "./state.js";

/** Values that the form offers; more can be written by hand. */
const OFFERED = 500;

export class Filters {
  private readonly chips = el("div", { class: "chips" });
  private readonly open = el("button", { type: "button", class: "chip quiet", title: "only profiles with such labels (f)" }, "+ filter");
  private readonly name = el("select", { "aria-label": "Label" });
  private readonly operator = el("select", { "aria-label": "Condition" }, ...OPERATORS.map(({ operator, means }) => el("option", { value: operator }, means)));
  private readonly value = el("input", { type: "text", list: "filter-values", "aria-label": "Value", placeholder: "value", autocomplete: "off", spellcheck: "false" });
  private readonly values = el("datalist", { id: "filter-values" });
  private readonly form = el("form", { class: "filter-form", hidden: true }, this.name, this.operator, this.value, this.values, el("button", { type: "submit", class: "chip" }, "add"), el("button", { type: "button", class: "chip quiet", "data-cancel": true }, "cancel"));
  private readonly group = byId<HTMLSelectElement>("group");
  private names: string[] = [];

  constructor(private readonly context: Context) {
    byId("filters").append(this.chips, this.open, this.form);
    this.open.addEventListener("click", () => void this.show());
    this.name.addEventListener("change", () => void this.offerValues());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.add({ name: this.name.value, operator: this.operator.value as Operator, value: this.value.value });
    });
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
      event.stopPropagation();
    });
    this.form.querySelector("[data-cancel]")!.addEventListener("click", () => this.close());
    this.group.addEventListener("focus", () => void this.learn());
    this.group.addEventListener("change", () => context.choose({ group: this.group.value, service: null, zoom: [] }));
    this.update();
  }

  /** Opens the form. */
  async show(): Promise<void> {
    this.form.hidden = false;
    this.open.hidden = true;
    await this.learn();
    const before = this.name.value;
    this.name.replaceChildren(...this.names.map((name) => el("option", { value: name }, name)));
    if (this.names.includes(before)) this.name.value = before;
    this.name.focus();
    await this.offerValues();
  }

  /** Shows what is chosen. */
  update(): void {
    const { filters, group } = this.context.state;
    const means = (filter: Filter) => `${filter.name} ${OPERATORS.find(({ operator }) => operator === filter.operator)!.means} ${filter.value === "" ? "empty" : filter.value}`;
    this.chips.replaceChildren(
      ...filters.map((filter, at) => {
        const chip = el("button", { type: "button", class: "chip", title: "take this filter away" }, means(filter), el("span", { class: "cross", "aria-hidden": "true" }, "×"));
        chip.addEventListener("click", () => this.context.choose({ filters: filters.filter((_, i) => i !== at), zoom: [] }));
        return chip;
      }),
    );
    this.offerGroups(group);
  }

  private add(filter: Filter): void {
    if (filter.name === "") return this.close();
    const others = this.context.state.filters.filter(({ name, operator, value }) => name !== filter.name || operator !== filter.operator || value !== filter.value);
    this.close();
    this.value.value = "";
    this.context.choose({ filters: [...others, filter], zoom: [] });
  }

  private close(): void {
    this.form.hidden = true;
    this.open.hidden = false;
    this.open.focus();
  }

  /** Asks which labels there are. */
  async learn(): Promise<void> {
    try {
      this.names = await labelNames(this.context.range);
    } catch (error) {
      this.context.notify(`The labels cannot be listed: ${error instanceof Error ? error.message : error}`);
    }
    this.offerGroups(this.context.state.group);
  }

  private offerGroups(chosen: string): void {
    const names = [...new Set([GROUP, ...this.names, chosen])];
    const known = [...this.group.options].map(({ value }) => value);
    if (known.join("\n") !== names.join("\n")) {
      this.group.replaceChildren(...names.map((name) => el("option", { value: name }, name === GROUP ? "service" : name)));
    }
    this.group.value = chosen;
  }

  private async offerValues(): Promise<void> {
    const name = this.name.value;
    if (name === "") return;
    try {
      const values = await labelValues(name, this.context.range);
      if (name !== this.name.value) return;
      this.values.replaceChildren(...values.slice(0, OFFERED).map((value) => el("option", { value })));
    } catch {
      // A value can be written without a list of them.
    }
  }
}
