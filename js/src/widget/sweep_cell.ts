import { Bar } from './bar';
import { button, element, put } from './dom';
import { nodeShare } from './labels';
import { Picture } from './pictures';
import type { Files } from './pictures';
import type { SweepCell } from './sweep';
import { word } from './sweep_labels';
import type { Zoomed } from './zoom';

/** What a cell asks of the view that it is in. */
export interface CellWishes {
  /** Show the picture of this cell large. */
  zoom(cell: CellView): void;
  /** Take note of how high pictures are, for the cells that have none yet. */
  sized(image: HTMLImageElement): void;
}

/** One cell of the table: its picture, or what there is instead. */
export class CellView {
  readonly node = element('td', 'jp-ComfySweep-cell');
  /** What the keyboard goes to; null while there is no picture. */
  button: HTMLButtonElement | null = null;
  zoomed: Zoomed | null = null;

  constructor(
    readonly caption: string,
    private readonly _files: Files | null,
    private readonly _wishes: CellWishes,
    private readonly _signal: AbortSignal
  ) {
    this._box.append(this._word, this._why, this._bar.node);
    this.node.append(this._box);
    this._bar.draw(null, '');
  }

  /** Show `cell`; `previewPath` is where the preview of its task is, '' for none. */
  draw(cell: SweepCell, previewPath: string): void {
    const hasPicture = cell.picture !== '' && this._files !== null;
    this.node.dataset['state'] = cell.state;
    put(this._word, word(cell));
    put(this._why, cell.why);
    this._box.title = cell.why;
    const share = cell.state === 'running' && cell.task ? nodeShare(cell.task) : null;
    this._bar.draw(share, share === null ? '' : `${Math.round(share * 100)} %`);
    this._drawPreview(cell, previewPath);
    if (hasPicture && this._seen) {
      this._drawPicture(cell.picture);
    }
    this._wanted = hasPicture ? cell.picture : '';
    if (!hasPicture && this.button !== null) {
      this._removePicture();
    }
  }

  /** Load the picture from now on: somebody could see it. */
  see(): void {
    this._seen = true;
    if (this._wanted !== '') {
      this._drawPicture(this._wanted);
    }
  }

  private _drawPreview(cell: SweepCell, path: string): void {
    if (path === '' || this._files === null || !this._seen) {
      if (cell.task === null) {
        this._preview?.node.remove();
        this._preview = null;
      }
      return;
    }
    if (this._preview === null) {
      this._preview = new Picture(this._files, this._signal);
      this._preview.node.className = 'jp-ComfySweep-preview';
      this._preview.node.alt = `Preview: ${this.caption}`;
      this._box.prepend(this._preview.node);
    }
    this._preview.show(path);
  }

  private _drawPicture(path: string): void {
    if (this._files === null || path === this._shown) {
      return;
    }
    this._removePicture();
    this._shown = path;
    const picture = new Picture(this._files, this._signal);
    const { node } = picture;
    node.alt = this.caption;
    node.addEventListener('load', () => this._wishes.sized(node), {
      once: true,
      signal: this._signal
    });
    const pressed = button('', () => this._wishes.zoom(this), this._signal);
    pressed.className = 'jp-ComfySweep-picture';
    pressed.title = this.caption;
    pressed.tabIndex = -1;
    pressed.append(node);
    // The box stays until the picture is there, so that nothing jumps.
    pressed.hidden = true;
    node.addEventListener('load', () => this._swap(pressed), {
      once: true,
      signal: this._signal
    });
    this.button = pressed;
    this.zoomed = {
      image: node,
      caption: this.caption,
      filename: `${this.caption}.png`
    };
    this.node.append(pressed);
    picture.show(path, reason => put(this._why, reason));
  }

  private _swap(pressed: HTMLElement): void {
    if (this.button === pressed) {
      pressed.hidden = false;
      this._box.hidden = true;
    }
  }

  private _removePicture(): void {
    this.button?.remove();
    this.button = this.zoomed = null;
    this._shown = '';
    this._box.hidden = false;
  }

  private readonly _box = element('div', 'jp-ComfySweep-box');
  private readonly _word = element('span', 'jp-ComfySweep-word');
  private readonly _why = element('span', 'jp-ComfySweep-why');
  private readonly _bar = new Bar('jp-ComfySweep-part', 'Progress of this picture');
  private _preview: Picture | null = null;
  private _seen = false;
  private _wanted = '';
  private _shown = '';
}
