// The list of services: who uses the CPU, at a glance.

import type { Service, Services } from "./api.js";
import { serviceColor } from "./colors.js";
import type { Context } from "./context.js";
import { el, say, sharp } from "./dom.js";
import { amount, changed, cores, isCpu, nounOf, percent, unitOf } from "./format.js";
import type { Item } from "./menu.js";
import { GROUP } from "./state.js";

const SPARK = { width: 72, height: 22 };

type Update = (service: Service, data: Services, all: boolean) => void;

interface Row {
  button: HTMLButtonElement;
  update: Update;
}

export class ServiceList {
  /** By name; all services together are `null`. */
  private rows = new Map<string | null, Row>();

  constructor(
    private readonly list: HTMLElement,
    private readonly context: Context,
  ) {}

  show(data: Services): void {
    const { service: chosen, against } = this.context.state;
    const steps = data.others.points.length;
    const everything: Service = {
      name: "",
      total: data.total,
      points: Array.from({ length: steps }, (_, i) => data.services.reduce((sum, s) => sum + s.points[i]!, data.others.points[i]!)),
    };
    const shown: [string | null, Service][] = [[null, everything], ...data.services.map((service): [string, Service] => [service.name, service])];
    // A service that was chosen stays in sight when it is idle.
    for (const name of [chosen, against]) {
      if (name !== null && !data.services.some((service) => service.name === name)) shown.push([name, { name, total: 0, points: new Array<number>(steps).fill(0) }]);
    }
    const names = new Set(shown.map(([key]) => key));
    for (const [name, row] of this.rows) {
      if (!names.has(name)) {
        row.button.parentElement?.remove();
        this.rows.delete(name);
      }
    }
    shown.forEach(([key, service], place) => {
      let row = this.rows.get(key);
      if (row === undefined) {
        row = this.row(key);
        this.rows.set(key, row);
      }
      row.update(service, data, key === null);
      row.button.setAttribute("aria-pressed", String(key === chosen));
      row.button.classList.toggle("against", key !== null && key === against);
      // Rows move only if their rank changed, so that focus and pointer keep theirs.
      const item = row.button.parentElement ?? el("li", {}, row.button);
      if (this.list.children[place] !== item) this.list.insertBefore(item, this.list.children[place] ?? null);
    });
    const more = this.list.parentElement?.querySelector<HTMLElement>(".more-services");
    if (more != null) {
      more.hidden = data.others.services === 0;
      more.textContent = `and ${data.others.services} more, ${percent(data.others.total, data.total)}`;
    }
  }

  private row(name: string | null): Row {
    const { context } = this;
    const shown = name === null ? "All services" : name === "" ? "none" : name;
    const dot = el("span", { class: "dot" });
    const title = el("span", { class: "service-name" }, shown);
    const part = el("span");
    const change = el("span", { class: "service-change" });
    const share = el("span", { class: "service-share" }, part, change);
    const value = el("span", { class: "service-value" });
    const bar = el("span", { class: "bar" });
    const spark = el("canvas", { "aria-hidden": "true" });
    let sparked = "";
    const button = el("button", { class: "service", type: "button" }, dot, title, share, el("span", { class: "service-spark" }, spark), value, el("span", { class: "track" }, bar));
    button.addEventListener("click", () => context.choose({ service: name, against: null, zoom: [] }));
    button.addEventListener("contextmenu", (event) => {
      if (name === null) return;
      event.preventDefault();
      const { left, bottom } = button.getBoundingClientRect();
      const byKey = event.button !== 2;
      context.menu.show(byKey ? left : event.clientX, byKey ? bottom : event.clientY, this.actions(name), shown);
    });
    return {
      button,
      update: (service, data, all) => {
        const { theme, state } = context;
        if (all) say(title, state.group === GROUP ? "All services" : `All, by ${state.group}`);
        const color = all ? (theme === "dark" ? "#aab4c4" : "#5b6678") : serviceColor(service.name, theme);
        const seconds = context.measuredMs / 1000;
        const unit = unitOf(data.type);
        const said = isCpu(data.type) ? cores(service.total / 1e9 / seconds) : amount(service.total, unit);
        const of = percent(service.total, data.total);
        const was = all ? context.before?.total : context.before?.services.find(({ name }) => name === service.name)?.total;
        dot.style.background = bar.style.background = color;
        bar.style.width = `${data.total > 0 ? Math.max(0.5, (service.total / data.total) * 100) : 0}%`;
        say(part, all ? (isCpu(data.type) && data.cpus !== null ? `of ${data.cpus} CPUs` : "") : of);
        showChange(change, service.total, was ?? 0, data.total);
        say(value, said);
        button.title = `${title.textContent}: ${amount(service.total, unit)} ${nounOf(data.type)}, ${of}`;
        button.dataset["service"] = service.name;
        button.dataset["total"] = String(service.total);
        const drawn = [color, window.devicePixelRatio, ...service.points].join();
        if (drawn !== sparked) drawSpark(spark, service.points, color);
        sparked = drawn;
      },
    };
  }

  private actions(name: string): Item[] {
    const { context } = this;
    const { service, group, filters, against } = context.state;
    const items: Item[] = [{ label: "Show it alone", act: () => context.choose({ service: name, against: null, zoom: [] }) }];
    if (service !== null && service !== name && against !== name) {
      items.push({ label: `Compare ${service} with it`, detail: "in blue and orange", act: () => context.choose({ against: name, base: null, zoom: [] }) });
    }
    items.push({ label: "Leave it out", detail: "as a filter", act: () => context.choose({ filters: [...filters, { name: group, operator: "!=", value: name }], service: service === name ? null : service, zoom: [] }) });
    return items;
  }
}

/** A change that is worth a look: of a tenth at least, and of a hundredth of all. */
function showChange(place: HTMLElement, now: number, before: number, all: number): void {
  const change = before > 0 ? now / before - 1 : 0;
  const isSeen = Math.abs(change) >= 0.1 && Math.abs(now - before) >= all / 100;
  place.className = `service-change ${change > 0 ? "more" : "less"}`;
  say(place, isSeen ? `${change > 0 ? "▲" : "▼"} ${change >= 1 ? `× ${(change + 1).toFixed(change < 9 ? 1 : 0)}` : `${Math.round(Math.abs(change) * 100)} %`}` : "");
  place.title = changed(now, before) ?? "";
}

function drawSpark(canvas: HTMLCanvasElement, points: number[], color: string): void {
  const { width, height } = SPARK;
  const context = sharp(canvas, width, height);
  const highest = Math.max(...points, 1);
  const x = (i: number) => (points.length < 2 ? width : (i / (points.length - 1)) * width);
  const y = (value: number) => height - 1.5 - (value / highest) * (height - 4);
  context.beginPath();
  points.forEach((value, i) => context.lineTo(x(i), y(value)));
  context.strokeStyle = color;
  context.lineWidth = 1.3;
  context.lineJoin = "round";
  context.stroke();
  context.lineTo(width, height);
  context.lineTo(0, height);
  context.closePath();
  context.globalAlpha = 0.16;
  context.fillStyle = color;
  context.fill();
  context.globalAlpha = 1;
}
