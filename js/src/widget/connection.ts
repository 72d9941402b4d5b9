import type { AnyModel } from '@anywidget/types';

import type { Files } from './pictures';
import { JupyterPage } from './server';

/** Milliseconds after which a kernel that has not heard a message is taken to run a cell. */
export const DEAF_MS = 700;

interface Answer {
  readonly kind?: unknown;
  readonly id?: unknown;
  readonly error?: unknown;
}

/** How a view reaches its kernel and, where the page is of its Jupyter server, that one. */
export class Connection {
  constructor(
    private readonly _model: AnyModel,
    private readonly _signal: AbortSignal
  ) {
    // A kernel that was started elsewhere is unknown to the Jupyter server of this page.
    this.page = _model.get('by_comm') === true ? null : JupyterPage.find();
    this.files = this.page ?? { bytes: path => this._fetch(path) };
    const hear = (message: Answer, buffers: readonly DataView[]): void =>
      this._hear(message, buffers);
    _model.on('msg:custom', hear);
    _signal.addEventListener('abort', () => _model.off('msg:custom', hear));
  }

  /** The Jupyter server; null where there is none, or another one. */
  readonly page: JupyterPage | null;
  readonly files: Files;

  /** Where the REST API is, below the base URL; ends with a slash. */
  get apiPath(): string {
    return String(this._model.get('api_path') || 'comfy-lock/api/');
  }

  /** Call `listener` when any of the traits changes, until the view ends. */
  listen(traits: readonly string[], listener: () => void): void {
    for (const trait of traits) {
      this._model.on(`change:${trait}`, listener);
      this._signal.addEventListener('abort', () =>
        this._model.off(`change:${trait}`, listener)
      );
    }
  }

  /**
   * Tell the kernel something.
   *
   * @param deaf is called when it does not hear it: it runs a cell, or is gone. It hears it then
   *   when that cell has ended.
   * @param heard is called when it does.
   */
  tell(
    message: Readonly<Record<string, unknown>>,
    deaf: () => void = () => undefined,
    heard: () => void = () => undefined,
    buffers: ArrayBuffer[] = []
  ): void {
    const id = this._next++;
    const timer = setTimeout(deaf, DEAF_MS);
    this._unheard.set(id, () => {
      clearTimeout(timer);
      heard();
    });
    this._model.send({ ...message, id }, undefined, buffers);
  }

  /** Call `listener` with the bytes of each message of that kind that the kernel sends. */
  hear(kind: string, listener: (bytes: Blob, message: Answer) => void): void {
    this._listeners.set(kind, listener);
  }

  private _fetch(path: string): Promise<Blob> {
    const id = this._next++;
    return new Promise((resolve, reject) => {
      this._fetching.set(id, { resolve, reject });
      this._signal.addEventListener('abort', () => reject(new Error('closed')));
      this._model.send({ kind: 'fetch', path, id });
    });
  }

  private _hear(message: Answer, buffers: readonly DataView[]): void {
    const id = Number(message.id);
    if (message.kind === 'heard') {
      this._unheard.get(id)?.();
      this._unheard.delete(id);
      return;
    }
    const bytes = new Blob(buffers.map(each => each as DataView<ArrayBuffer>));
    if (message.kind === 'bytes') {
      const waiting = this._fetching.get(id);
      this._fetching.delete(id);
      if (typeof message.error === 'string') {
        waiting?.reject(new Error(message.error));
      } else {
        waiting?.resolve(bytes);
      }
      return;
    }
    this._listeners.get(String(message.kind))?.(bytes, message);
  }

  private _next = 1;
  private readonly _unheard = new Map<number, () => void>();
  private readonly _fetching = new Map<
    number,
    { resolve(bytes: Blob): void; reject(error: Error): void }
  >();
  private readonly _listeners = new Map<
    string,
    (bytes: Blob, message: Answer) => void
  >();
}
