import { complaint } from './dom';

/** Where the bytes of pictures and files come from. */
export interface Files {
  /**
   * Fetch the bytes at `path`, below the Jupyter server's base URL.
   *
   * @throws Error with a message for the person.
   */
  bytes(path: string, signal: AbortSignal): Promise<Blob>;
}

/**
 * One <img> that goes from picture to picture without a gap: the next one is shown when it is
 * loaded and decoded, and only the newest that was asked for is loaded next.
 */
export class Picture {
  readonly node = document.createElement('img');

  constructor(
    private readonly _files: Files,
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

  /** Show a picture that is here already. */
  put(bytes: Blob): void {
    this._swap(bytes).catch(() => undefined);
  }

  /** Show nothing. */
  clear(): void {
    this._wanted = '';
    this._cleared += 1;
    this._release();
    this.node.hidden = true;
    this.node.removeAttribute('src');
  }

  private async _load(failed: (reason: string) => void): Promise<void> {
    this._loading = true;
    let path = '';
    while (this._wanted !== '' && path !== this._wanted && !this._isOver()) {
      path = this._wanted;
      try {
        await this._swap(await this._files.bytes(path, this._signal));
      } catch (error) {
        if (path === this._wanted && !this._isOver()) {
          failed(complaint(error));
        }
      }
    }
    this._loading = false;
  }

  private async _swap(bytes: Blob): Promise<void> {
    const url = URL.createObjectURL(bytes);
    const cleared = this._cleared;
    try {
      const next = new Image();
      next.src = url;
      await next.decode();
      this._signal.throwIfAborted();
      if (cleared !== this._cleared) {
        throw new Error('not wanted any more');
      }
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
  private _cleared = 0;
}
