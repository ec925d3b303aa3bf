// The little that is needed of a framework.

export type Child = Node | string | null;

/** An element with attributes and children. Text is text: nothing that was profiled is taken for markup. */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string | boolean> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false) continue;
    element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Lets `place` say `text`: what it says already costs no layout. */
export function say(place: Element, text: string): void {
  if (place.textContent !== text) place.textContent = text;
}

const filled = new WeakMap<Element, string>();

/** Fills `place` anew if `content`, which says all that is to be seen and done there, is another than last time: what stays as it is costs no layout. */
export function fill(place: Element, content: unknown, make: () => Child[]): void {
  const said = JSON.stringify(content);
  if (filled.get(place) === said) return;
  filled.set(place, said);
  place.replaceChildren(...make().filter((child) => child !== null));
}

/** The element of that id, which the page has. */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`no #${id}`);
  return element as T;
}

/** Makes a canvas as sharp as the screen; returns a context in CSS pixels, with nothing drawn. */
export function sharp(canvas: HTMLCanvasElement, width: number, height: number): CanvasRenderingContext2D {
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d", { alpha: true })!;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** Runs `draw` once before the next frame, however often it is asked to. */
export function onceAFrame(draw: () => void): () => void {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  };
}

/** The one tooltip: follows the pointer and stays inside the window. */
export class Tooltip {
  private readonly element = el("div", { class: "tooltip", role: "tooltip", hidden: true });

  constructor() {
    document.body.append(this.element);
  }

  show(x: number, y: number, ...children: Child[]): void {
    this.element.replaceChildren(...children.filter((child) => child !== null));
    this.element.hidden = false;
    const { width, height } = this.element.getBoundingClientRect();
    const left = x + 16 + width > window.innerWidth ? Math.max(8, x - width - 12) : x + 16;
    const top = y + 18 + height > window.innerHeight ? Math.max(8, y - height - 12) : y + 18;
    this.element.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
  }

  hide(): void {
    this.element.hidden = true;
  }

  get text(): string | null {
    return this.element.hidden ? null : this.element.innerText;
  }
}
