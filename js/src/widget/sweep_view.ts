import { button, complaint, element, fill, put } from './dom';
import type { Files } from './pictures';
import { isFlying, isMissing } from './sweep';
import type { Block, Grid, Sweep, SweepCell } from './sweep';
import { CellView } from './sweep_cell';
import { caption, counted, reasonLines, shares } from './sweep_labels';
import { zoom } from './zoom';

/** What the view asks of whoever shows it; each rejects with a message for the person. */
export interface SweepWishes {
  cancel(): Promise<void>;
  resume(): Promise<void>;
  /** Where the preview of a cell in flight is; '' for none. */
  previewPath(cell: SweepCell): string;
}

/** Below so many pixels from the edge of the window pictures are loaded already. */
const NEAR = '200px';
const ARROWS: Readonly<Record<string, readonly [number, number]>> = {
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0]
};

/** A sweep under its cell: one bar for all, and its pictures in a table. */
export class SweepView {
  constructor(
    private readonly _el: HTMLElement,
    private readonly _files: Files | null,
    private readonly _wishes: SweepWishes,
    private readonly _signal: AbortSignal
  ) {
    _el.classList.add('jp-Comfy', 'jp-ComfySweep');
    this._cancel = button('Cancel', () => void this._ask('cancel'), _signal);
    this._resume = button('Resume', () => void this._ask('resume'), _signal);
    this._text.setAttribute('role', 'status');
    this._bar.setAttribute('role', 'progressbar');
    this._bar.setAttribute('aria-label', 'Progress of the sweep');
    this._bar.setAttribute('aria-valuemin', '0');
    this._bar.setAttribute('aria-valuemax', '100');
    this._bar.append(...this._fills);
    this._head.append(
      this._label,
      this._badge,
      this._text,
      this._left,
      this._cancel,
      this._resume
    );
    this._tables.addEventListener('keydown', event => this._onKey(event), {
      signal: _signal
    });
    _el.append(this._head, this._bar, this._notes, this._tables);
    this._observer = new IntersectionObserver(
      entries => this._onSeen(entries),
      { rootMargin: NEAR }
    );
    _signal.addEventListener('abort', () => this._observer.disconnect());
  }

  /** Lay the table out, once; `grid` never changes. */
  layOut(grid: Grid): void {
    const widest = Math.max(0, ...grid.blocks.map(block => block.columns.length));
    this._el.dataset['size'] = widest <= 4 ? 'large' : widest <= 8 ? 'medium' : 'small';
    this._tables.replaceChildren(
      ...grid.blocks.map(block => this._table(grid, block))
    );
  }

  /** Show `sweep`; may be called many times a second. */
  draw(sweep: Sweep): void {
    const { cells } = sweep;
    this._sweep = sweep;
    this._el.dataset['state'] = sweep.state;
    put(this._label, sweep.label);
    put(this._badge, sweep.state);
    put(this._text, counted(cells));
    put(this._left, sweep.left === '' ? '' : `about ${sweep.left} left`);
    this._drawBar(cells);
    const goes = sweep.state === 'running' || cells.some(isFlying);
    this._cancel.hidden = !goes;
    this._resume.hidden = goes || !cells.some(isMissing);
    if (this._wished !== '' && this._wished !== wishFor(goes)) {
      this._wished = '';
      this._complaint = '';
    }
    this._drawNotes();
    for (const cell of cells) {
      this._cells.get(cell.number)?.draw(cell, this._wishes.previewPath(cell));
    }
    this._setTab();
  }

  private _drawBar(cells: readonly SweepCell[]): void {
    const parts = shares(cells);
    const ended = Math.round((parts[0] + parts[1]) * 100);
    this._bar.setAttribute('aria-valuenow', String(ended));
    this._bar.setAttribute('aria-valuetext', counted(cells));
    this._fills.forEach((node, n) => {
      node.style.width = `${(parts[n] ?? 0) * 100}%`;
    });
  }

  private _drawNotes(): void {
    const sweep = this._sweep;
    const notes = [
      this._complaint,
      sweep?.note ?? '',
      ...(sweep === null ? [] : reasonLines(sweep.cells))
    ].filter(note => note !== '');
    fill(this._notes, notes.join('\n'), () =>
      notes.map(note => element('li', '', note))
    );
  }

  private _table(grid: Grid, block: Block): HTMLElement {
    const table = element('table', 'jp-ComfySweep-table');
    if (block.title !== '') {
      table.append(element('caption', 'jp-ComfySweep-title', block.title));
    }
    const axes = element('tr', 'jp-ComfySweep-axes');
    const labels = element('tr', 'jp-ComfySweep-labels');
    if (block.rows.length > 0) {
      axes.append(element('td', ''));
      labels.append(header(grid.rows, 'col', 'jp-ComfySweep-axis'));
    }
    const across = header(grid.columns, 'colgroup', 'jp-ComfySweep-axis');
    across.colSpan = block.columns.length;
    axes.append(across);
    labels.append(...block.columns.map(label => header(label, 'col')));
    const head = element('thead', '');
    head.append(axes, labels);
    const body = element('tbody', '');
    body.append(
      ...block.cells.map((numbers, row) => {
        const line = element('tr', '');
        if (block.rows.length > 0) {
          line.append(header(block.rows[row] ?? '', 'row'));
        }
        line.append(
          ...numbers.map((number, column) =>
            this._cell(number, caption(grid, block, row, column))
          )
        );
        return line;
      })
    );
    this._rows.push(...block.cells);
    table.append(head, body);
    const scroll = element('div', 'jp-ComfySweep-scroll');
    scroll.append(table);
    return scroll;
  }

  private _cell(number: number, label: string): HTMLElement {
    const made = new CellView(
      label,
      this._files,
      { zoom: cell => this._zoom(cell), sized: image => this._sized(image) },
      this._signal
    );
    this._cells.set(number, made);
    this._numbers.set(made.node, number);
    this._observer.observe(made.node);
    return made.node;
  }

  private _onSeen(entries: readonly IntersectionObserverEntry[]): void {
    for (const { isIntersecting, target } of entries) {
      const number = this._numbers.get(target);
      if (isIntersecting && number !== undefined) {
        this._observer.unobserve(target);
        this._cells.get(number)?.see();
      }
    }
  }

  private _sized({ naturalHeight, naturalWidth }: HTMLImageElement): void {
    if (!this._hasRatio && naturalWidth > 0) {
      this._hasRatio = true;
      const ratio = Math.min(2, naturalHeight / naturalWidth);
      this._el.style.setProperty('--comfy-ratio', ratio.toFixed(4));
    }
    this._setTab();
  }

  private _zoom(pressed: CellView): void {
    const loaded = [...this._cells.values()].flatMap(({ zoomed }) =>
      zoomed !== null && zoomed.image.src !== '' ? [zoomed] : []
    );
    const first = loaded.findIndex(each => each === pressed.zoomed);
    zoom(loaded, Math.max(0, first), this._signal);
  }

  /** One picture is reached by Tab, the others from there by arrow keys. */
  private _setTab(): void {
    const buttons = [...this._cells.values()].flatMap(({ button }) =>
      button === null || button.hidden ? [] : [button]
    );
    const at = buttons.find(each => each.tabIndex === 0) ?? buttons[0];
    for (const each of buttons) {
      each.tabIndex = each === at ? 0 : -1;
    }
  }

  private _onKey(event: KeyboardEvent): void {
    const step = ARROWS[event.key];
    const from = [...this._cells].find(
      ([, cell]) => cell.button !== null && cell.button === event.target
    );
    if (step === undefined || from === undefined) {
      return;
    }
    // The notebook would go to another cell of its own.
    event.preventDefault();
    event.stopPropagation();
    let row = this._rows.findIndex(numbers => numbers.includes(from[0]));
    let column = this._rows[row]?.indexOf(from[0]) ?? 0;
    for (;;) {
      row += step[0];
      column += step[1];
      const number = this._rows[row]?.[column];
      if (number === undefined) {
        return;
      }
      const next = this._cells.get(number)?.button;
      if (next && !next.hidden) {
        const was = from[1].button;
        if (was !== null) {
          was.tabIndex = -1;
        }
        next.tabIndex = 0;
        next.focus();
        return;
      }
    }
  }

  private async _ask(wish: 'cancel' | 'resume'): Promise<void> {
    this._wished = wish;
    this._complaint = '';
    this._cancel.disabled = this._resume.disabled = true;
    try {
      await this._wishes[wish]();
    } catch (error) {
      this._complaint = `Could not ${wish}: ${complaint(error)}`;
    } finally {
      this._cancel.disabled = this._resume.disabled = false;
    }
    if (!this._signal.aborted) {
      this._drawNotes();
    }
  }

  private readonly _head = element('div', 'jp-ComfySweep-head');
  private readonly _label = element('strong', 'jp-ComfySweep-label');
  private readonly _badge = element('span', 'jp-ComfySweep-badge');
  private readonly _text = element('span', 'jp-ComfySweep-text');
  private readonly _left = element('span', 'jp-ComfySweep-left');
  private readonly _cancel: HTMLButtonElement;
  private readonly _resume: HTMLButtonElement;
  private readonly _bar = element('div', 'jp-Comfy-bar jp-ComfySweep-bar');
  private readonly _fills = ['ok', 'bad', 'busy'].map(kind =>
    element('div', `jp-ComfySweep-fill jp-mod-${kind}`)
  );
  private readonly _notes = element('ul', 'jp-ComfySweep-notes');
  private readonly _tables = element('div', 'jp-ComfySweep-tables');
  private readonly _observer: IntersectionObserver;
  private readonly _cells = new Map<number, CellView>();
  private readonly _numbers = new Map<Element, number>();
  private readonly _rows: (readonly number[])[] = [];
  private _sweep: Sweep | null = null;
  private _hasRatio = false;
  private _wished = '';
  private _complaint = '';
}

/** What there is to wish for. */
function wishFor(goes: boolean): string {
  return goes ? 'cancel' : 'resume';
}

function header(
  label: string,
  scope: string,
  className = ''
): HTMLTableCellElement {
  const node = element('th', className, label);
  node.scope = scope;
  node.title = label;
  return node;
}
