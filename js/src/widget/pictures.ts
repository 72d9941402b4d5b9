import type { JupyterPage } from './server';

/**
 * One <img> that goes from picture to picture without a gap: the next one is shown when it is
 * loaded and decoded, and only the newest that was asked for is loaded next.
 */
export class Picture {
  readonly node = document.createElement('img');

  constructor(
    private readonly _page: JupyterPage,
    private readonly _signal: AbortSignal
  ) {
    this.node.hidden = true;
    _signal.addEventListener('abort', () => this._release());
  }

  /** Show the picture at `path`. A failure keeps the one before; `failed` is then called. */
  show(path: string, failed: (reason: string) => void = () => undefined): void {
    if (path === this._wanted) {
      return;
    }
    this._wanted = path;
    if (!this._loading) {
      void this._load(failed);
    }
  }

  private async _load(failed: (reason: string) => void): Promise<void> {
    this._loading = true;
    let path = '';
    while (path !== this._wanted && !this._isOver()) {
      path = this._wanted;
      try {
        await this._swap(await this._page.bytes(path, this._signal));
      } catch (error) {
        if (path === this._wanted && !this._isOver()) {
          failed(error instanceof Error ? error.message : String(error));
        }
      }
    }
    this._loading = false;
  }

  private async _swap(bytes: Blob): Promise<void> {
    const url = URL.createObjectURL(bytes);
    try {
      const next = new Image();
      next.src = url;
      await next.decode();
      this._signal.throwIfAborted();
    } catch (error) {
      URL.revokeObjectURL(url);
      throw error;
    }
    this._release();
    this._url = url;
    this.node.src = url;
    this.node.hidden = false;
  }

  private _isOver(): boolean {
    return this._signal.aborted;
  }

  private _release(): void {
    if (this._url !== '') {
      URL.revokeObjectURL(this._url);
      this._url = '';
    }
  }

  private _url = '';
  private _wanted = '';
  private _loading = false;
}

/** Show `picture` large until Escape, a click or `signal` closes it. */
export function zoom(
  picture: HTMLImageElement,
  caption: string,
  signal: AbortSignal
): void {
  const dialog = document.createElement('dialog');
  dialog.className = 'jp-ComfyTask-zoom';
  dialog.setAttribute('aria-label', caption);
  const large = document.createElement('img');
  large.src = picture.src;
  large.alt = caption;
  const text = document.createElement('p');
  text.textContent = caption;
  dialog.append(large, text);
  const close = () => dialog.close();
  dialog.addEventListener('click', close);
  // The notebook must not take Escape for its command mode.
  dialog.addEventListener('keydown', event => event.stopPropagation());
  dialog.addEventListener('close', () => dialog.remove());
  signal.addEventListener('abort', close);
  document.body.append(dialog);
  dialog.showModal();
}
