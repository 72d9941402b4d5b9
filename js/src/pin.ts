import type { DocumentRegistry } from '@jupyterlab/docregistry';
import type { Kernel } from '@jupyterlab/services';
import type { IDisposable } from '@lumino/disposable';
import { DisposableDelegate } from '@lumino/disposable';

/** The comm that a kernel opens to tell its notebook's pin; see kernel/api.py. */
const PIN_TARGET = 'jupyter_comfy_lock:pin';

/** Where a notebook's metadata keep what is ours. */
const METADATA_KEY = 'comfy_lock';

/** The part of a notebook's model that keeps what is saved with the file. */
export interface INotebookMetadata {
  getMetadata(key: string): unknown;
  setMetadata(key: string, value: unknown): void;
  deleteMetadata(key: string): void;
}

/**
 * Keeps the pin that a kernel tells in the metadata of its notebook, from where the notebook's
 * next save takes it. Nothing is saved here: the file belongs to the person.
 */
export class PinKeeper implements DocumentRegistry.WidgetExtension {
  /** Follow the kernels of a notebook for as long as the returned object lives. */
  createNew(
    _widget: unknown,
    { model, sessionContext }: DocumentRegistry.Context
  ): IDisposable {
    const metadata = model as unknown as INotebookMetadata;
    const onOpen = (_: Kernel.IComm, { content }: { content: unknown }) => {
      keepPin(metadata, parsePin((content as { data?: unknown }).data));
    };
    // A restarted kernel has the same connection, and that remembers its targets.
    const listen = (kernel: Kernel.IKernelConnection | null | undefined) =>
      kernel?.registerCommTarget(PIN_TARGET, onOpen);
    const onKernelChanged = (
      _: unknown,
      change: { newValue: Kernel.IKernelConnection | null }
    ) => listen(change.newValue);
    listen(sessionContext.session?.kernel);
    sessionContext.kernelChanged.connect(onKernelChanged);
    return new DisposableDelegate(() => {
      sessionContext.kernelChanged.disconnect(onKernelChanged);
      const kernel = sessionContext.session?.kernel;
      kernel?.removeCommTarget(PIN_TARGET, onOpen);
    });
  }
}

/** Put `pin` into the notebook's metadata, or take it out for null; leave the rest alone. */
export function keepPin(metadata: INotebookMetadata, pin: string | null): void {
  const found = metadata.getMetadata(METADATA_KEY);
  const isObject =
    typeof found === 'object' && found !== null && !Array.isArray(found);
  const { pin: before, ...others } = (isObject ? found : {}) as Record<
    string,
    unknown
  >;
  if (pin === (before ?? null)) {
    return; // so that telling it again does not make the notebook unsaved
  }
  const kept = pin === null ? others : { ...others, pin };
  if (Object.keys(kept).length > 0) {
    metadata.setMetadata(METADATA_KEY, kept);
  } else {
    metadata.deleteMetadata(METADATA_KEY);
  }
}

/**
 * Check what the kernel sent before it goes into a file.
 *
 * @throws Error when it is no pin.
 */
export function parsePin(data: unknown): string | null {
  const pin = (data as { pin?: unknown } | null)?.pin;
  if (pin !== null && typeof pin !== 'string') {
    throw new Error(`The kernel sent ${JSON.stringify(data)}, which is no pin`);
  }
  return pin;
}
