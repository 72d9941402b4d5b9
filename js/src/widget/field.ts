import { button, element, put } from './dom';
import { anotherSeed, fault, range, valueOf } from './form';
import type { Field } from './form';

/** So many choices are a list; of more, what is typed filters them. */
const LISTED = 12;
/** Bytes: what a message to a kernel may carry. */
const LARGEST_FILE = 9_000_000;

export interface FieldWishes {
  set(key: string, value: unknown): void;
  picture(key: string, file: File): void;
}

let made = 0;

/** One field of a form: its label, its control, and what is wrong with its value. */
export class FieldView {
  readonly node = element('div', 'jp-ComfyPanel-field');

  constructor(
    readonly field: Field,
    private readonly _wishes: FieldWishes,
    private readonly _signal: AbortSignal
  ) {
    const id = `jp-ComfyPanel-${(made += 1)}`;
    this._control = control(field, id);
    this._control.id = id;
    const label = element('label', 'jp-ComfyPanel-label', field.name);
    label.htmlFor = id;
    label.title = [field.tooltip, range(field)].filter(part => part).join(' · ');
    this._fault.id = `${id}-fault`;
    this._control.setAttribute('aria-describedby', this._fault.id);
    const changed = () => this._onChange();
    this._control.addEventListener('input', changed, { signal: _signal });
    // The notebook must not take what is typed here for its shortcuts.
    this.node.addEventListener('keydown', event => event.stopPropagation(), { signal: _signal });
    const line = element('div', 'jp-ComfyPanel-line');
    line.append(this._control);
    if (this._control instanceof HTMLInputElement && field.choices.length > LISTED) {
      line.append(choicesOf(field, id));
      this._control.setAttribute('list', `${id}-choices`);
    }
    if (field.seed) {
      line.append(button('Random', () => this._onRandom(), _signal));
    }
    if (field.kind === 'image') {
      line.append(...this._picker());
    }
    this.node.append(label, line, this._fault);
    this._hint();
  }

  /** Whether its value fits, as far as can be told here. */
  get isRight(): boolean {
    return fault(this.field, this._said) === '';
  }

  get value(): unknown {
    return this.field.kind === 'bool'
      ? (this._control as HTMLInputElement).checked
      : valueOf(this.field, this._said);
  }

  /** Whether its value is a picture that was chosen here: only the kernel knows its name. */
  get isPicked(): boolean {
    return this._picked;
  }

  focus(): void {
    this._control.focus();
  }

  /** Show the workflow's value where it is news, and what the kernel says of this one. */
  draw(value: unknown, error: string): void {
    const told = JSON.stringify(value);
    // What is set here and not heard yet stays: only another word of the kernel replaces it.
    const isNews = told !== this._told && document.activeElement !== this._control;
    if (this._told === undefined || (isNews && error === '')) {
      this._show(value);
    }
    this._told = told;
    this._complain(fault(this.field, this._said) || error);
  }

  private get _said(): string {
    return this._control.value;
  }

  private _show(value: unknown): void {
    if (this._control instanceof HTMLInputElement && this.field.kind === 'bool') {
      this._control.checked = value === true;
      return;
    }
    const shown = typeof value === 'string' ? value : JSON.stringify(value ?? '');
    if (this._control.value !== shown) {
      this._control.value = shown;
    }
  }

  private _onChange(): void {
    const wrong = fault(this.field, this._said);
    this._picked = false;
    this._complain(wrong);
    clearTimeout(this._timer);
    if (wrong === '') {
      const tell = () => this._wishes.set(this.field.key, this.value);
      this._timer = setTimeout(tell, 250);
    }
  }

  private _onRandom(): void {
    this._control.value = anotherSeed(this.field);
    this._onChange();
  }

  private _complain(why: string): void {
    put(this._fault, why || range(this.field));
    this._fault.dataset['wrong'] = String(why !== '');
    this._control.setAttribute('aria-invalid', String(why !== ''));
  }

  private _hint(): void {
    this._complain('');
  }

  private _picker(): readonly Node[] {
    const file = element('input', 'jp-Comfy-unseen');
    file.type = 'file';
    file.accept = 'image/*';
    file.tabIndex = -1;
    file.setAttribute('aria-hidden', 'true');
    const signal = { signal: this._signal };
    file.addEventListener('change', () => this._take(file.files?.[0]), signal);
    this.node.addEventListener('dragover', event => event.preventDefault(), signal);
    const drop = (event: DragEvent) => {
      event.preventDefault();
      event.stopPropagation();
      this._take(event.dataTransfer?.files[0]);
    };
    this.node.addEventListener('drop', drop, signal);
    const paste = (event: ClipboardEvent) => {
      const picture = event.clipboardData?.files[0];
      if (picture !== undefined) {
        event.preventDefault();
        this._take(picture);
      }
      event.stopPropagation();
    };
    this.node.addEventListener('paste', paste, signal);
    const choose = button('Choose a picture', () => file.click(), this._signal);
    choose.title = 'Or drop one here, or paste one';
    this._thumbnail.alt = '';
    this._thumbnail.hidden = true;
    return [choose, file, this._thumbnail];
  }

  private _take(file: File | undefined): void {
    if (file === undefined) {
      return;
    }
    if (!file.type.startsWith('image/')) {
      this._complain(`${file.name} is no picture`);
      return;
    }
    if (file.size > LARGEST_FILE) {
      this._complain(`${file.name} is larger than ${LARGEST_FILE / 1e6} MB: set it in a cell`);
      return;
    }
    URL.revokeObjectURL(this._thumbnail.src);
    this._thumbnail.src = URL.createObjectURL(file);
    this._thumbnail.hidden = false;
    this._picked = true;
    this._complain('');
    this._wishes.picture(this.field.key, file);
  }

  private readonly _control: HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement;
  private readonly _fault = element('div', 'jp-ComfyPanel-fault');
  private readonly _thumbnail = element('img', 'jp-ComfyPanel-thumbnail');
  private _picked = false;
  private _told: string | undefined;
  private _timer: ReturnType<typeof setTimeout> | undefined;
}

function control(
  field: Field,
  id: string
): HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement {
  const { kind, choices } = field;
  const className = 'jp-ComfyPanel-control';
  if (kind === 'long') {
    const area = element('textarea', className);
    area.rows = 3;
    return area;
  }
  if (kind === 'choice' && choices.length <= LISTED) {
    const select = element('select', className);
    select.append(...choices.map(each => element('option', '', String(each))));
    return select;
  }
  const input = element('input', className);
  input.type = kind === 'bool' ? 'checkbox' : kind === 'float' ? 'number' : 'text';
  if (kind === 'int') {
    // As text: a number field of a browser rounds a long seed.
    input.inputMode = 'numeric';
    input.addEventListener('keydown', event => stepped(input, field, event));
  }
  if (kind === 'float') {
    input.step = field.step || 'any';
    input.min = field.min;
    input.max = field.max;
  }
  input.readOnly = kind === 'other';
  input.autocomplete = 'off';
  input.name = id;
  return input;
}

/** Arrow keys count a whole number up and down, by its step. */
function stepped(input: HTMLInputElement, field: Field, event: KeyboardEvent): void {
  const by = { ArrowUp: 1n, ArrowDown: -1n }[event.key];
  if (by === undefined || !/^[+-]?\d+$/.test(input.value.trim())) {
    return;
  }
  event.preventDefault();
  const step = /^\d+$/.test(field.step) ? BigInt(field.step) : 1n;
  const next = String(BigInt(input.value.trim()) + by * step);
  if (fault(field, next) === '') {
    input.value = next;
    input.dispatchEvent(new Event('input', { bubbles: true }));
  }
}

function choicesOf(field: Field, id: string): HTMLElement {
  const list = element('datalist', '');
  list.id = `${id}-choices`;
  for (const choice of field.choices) {
    const option = element('option', '');
    option.value = String(choice);
    list.append(option);
  }
  return list;
}
