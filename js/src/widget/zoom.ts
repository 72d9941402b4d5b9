import { button, element, put } from './dom';

/** A picture that can be shown large. */
export interface Zoomed {
  /** Whatever it shows now is shown. */
  readonly image: HTMLImageElement;
  readonly caption: string;
  /** What it is called when it is downloaded. */
  readonly filename: string;
}

/**
 * Show `pictures` large, one at a time, `first` to begin with, until Escape, a click or `signal`.
 * Arrow keys go through them.
 */
export function zoom(
  pictures: readonly Zoomed[],
  first: number,
  signal: AbortSignal
): void {
  let at = first;
  const life = new AbortController();
  const dialog = element('dialog', 'jp-Comfy-zoom');
  const large = element('img', 'jp-Comfy-zoomed');
  const caption = element('p', 'jp-Comfy-caption');
  caption.setAttribute('role', 'status');
  const save = element('a', 'jp-Comfy-button', 'Download');
  const step = (by: number) => show((at + by + pictures.length) % pictures.length);
  const before = button('‹', () => step(-1), life.signal);
  const after = button('›', () => step(1), life.signal);
  const close = button('Close', () => dialog.close(), life.signal);
  before.setAttribute('aria-label', 'Previous picture');
  after.setAttribute('aria-label', 'Next picture');
  before.hidden = after.hidden = pictures.length < 2;
  const show = (index: number): void => {
    const picture = pictures[index];
    if (picture === undefined) {
      return;
    }
    at = index;
    large.src = picture.image.src;
    large.alt = picture.caption;
    dialog.setAttribute('aria-label', picture.caption);
    const place = pictures.length > 1 ? `${index + 1} of ${pictures.length} · ` : '';
    put(caption, place + picture.caption);
    save.href = picture.image.src;
    save.download = picture.filename;
  };
  const keys: Readonly<Record<string, () => void>> = {
    ArrowLeft: () => step(-1),
    ArrowRight: () => step(1),
    Home: () => show(0),
    End: () => show(pictures.length - 1)
  };
  dialog.addEventListener('keydown', event => {
    // The notebook must not take Escape for its command mode, nor arrows for its cells.
    event.stopPropagation();
    const press = keys[event.key];
    if (press !== undefined) {
      event.preventDefault();
      press();
    }
  });
  large.addEventListener('click', () => dialog.close());
  dialog.addEventListener('click', event => {
    if (event.target === dialog) {
      dialog.close();
    }
  });
  dialog.addEventListener('close', () => {
    life.abort();
    dialog.remove();
  });
  signal.addEventListener('abort', () => dialog.close(), { signal: life.signal });
  const foot = element('div', 'jp-Comfy-zoomFoot');
  foot.append(before, caption, after, save, close);
  dialog.append(large, foot);
  show(first);
  // Above whatever has a theme: the dialog inherits the page's variables from its body.
  document.body.append(dialog);
  dialog.showModal();
  close.focus();
}
