// The list of services: who uses the CPU, at a glance.

import type { Service, Services } from "./api.js";
import { serviceColor, type Theme } from "./colors.js";
import { el, sharp } from "./dom.js";
import { amount, cores, isCpu, percent, unitOf } from "./format.js";

const SPARK = { width: 72, height: 22 };

export class ServiceList {
  private rows = new Map<string, { button: HTMLButtonElement; update(service: Service, data: Services, selected: boolean, theme: Theme): void }>();

  constructor(
    private readonly list: HTMLElement,
    private readonly onChoose: (service: string | null) => void,
  ) {}

  show(data: Services, chosen: string | null, theme: Theme): void {
    const steps = data.others.points.length;
    const everything: Service = {
      name: "",
      total: data.total,
      points: Array.from({ length: steps }, (_, i) => data.services.reduce((sum, s) => sum + s.points[i]!, data.others.points[i]!)),
    };
    const shown = [everything, ...data.services];
    // A service that was chosen stays in sight when it is idle.
    if (chosen !== null && !data.services.some(({ name }) => name === chosen)) {
      shown.push({ name: chosen, total: 0, points: new Array<number>(steps).fill(0) });
    }
    const names = new Set(shown.map(({ name }) => name));
    for (const [name, row] of this.rows) {
      if (!names.has(name)) {
        row.button.parentElement?.remove();
        this.rows.delete(name);
      }
    }
    shown.forEach((service, place) => {
      let row = this.rows.get(service.name);
      if (row === undefined) {
        row = this.row(service.name);
        this.rows.set(service.name, row);
      }
      row.update(service, data, service.name === (chosen ?? ""), theme);
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

  private row(name: string): { button: HTMLButtonElement; update(service: Service, data: Services, selected: boolean, theme: Theme): void } {
    const dot = el("span", { class: "dot" });
    const title = el("span", { class: "service-name" }, name === "" ? "All services" : name);
    const share = el("span", { class: "service-share" });
    const value = el("span", { class: "service-value" });
    const bar = el("span", { class: "bar" });
    const spark = el("canvas", { "aria-hidden": "true" });
    const button = el("button", { class: "service", type: "button" }, dot, title, share, el("span", { class: "service-spark" }, spark), value, el("span", { class: "track" }, bar));
    button.addEventListener("click", () => this.onChoose(name === "" ? null : name));
    return {
      button,
      update: (service, data, selected, theme) => {
        const color = name === "" ? (theme === "dark" ? "#aab4c4" : "#5b6678") : serviceColor(name, theme);
        const seconds = (data.until_ms - data.from_ms) / 1000;
        const said = isCpu(data.type) ? cores(service.total / 1e9 / seconds) : amount(service.total, unitOf(data.type));
        const part = percent(service.total, data.total);
        dot.style.background = bar.style.background = color;
        bar.style.width = `${data.total > 0 ? Math.max(0.5, (service.total / data.total) * 100) : 0}%`;
        share.textContent = name === "" && isCpu(data.type) && data.cpus !== null ? `of ${data.cpus} CPUs` : part;
        value.textContent = said;
        button.setAttribute("aria-pressed", String(selected));
        button.title = `${name === "" ? "All services" : name}: ${amount(service.total, unitOf(data.type))}, ${part}`;
        button.dataset["service"] = name;
        button.dataset["total"] = String(service.total);
        drawSpark(spark, service.points, color);
      },
    };
  }
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
