import { element } from './dom';

/** A bar that fills. */
export class Bar {
  readonly node: HTMLElement;

  constructor(className: string, label: string) {
    this.node = element('div', className);
    this.node.classList.add('jp-Comfy-bar');
    this.node.setAttribute('role', 'progressbar');
    this.node.setAttribute('aria-label', label);
    this.node.setAttribute('aria-valuemin', '0');
    this.node.setAttribute('aria-valuemax', '100');
    this.node.append(this._fill);
  }

  /** Show `share`, 0 to 1, and nothing for null; `text` is what a screen reader says of it. */
  draw(share: number | null, text: string): void {
    this.node.hidden = share === null;
    if (share !== null) {
      const percent = Math.round(share * 100);
      this.node.setAttribute('aria-valuenow', String(percent));
      this.node.setAttribute('aria-valuetext', text);
      this._fill.style.width = `${percent}%`;
    }
  }

  private readonly _fill = element('div', 'jp-Comfy-fill');
}
