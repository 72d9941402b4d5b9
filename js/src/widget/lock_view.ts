import { button, element, fill, put } from './dom';
import { health, isUsable, places, room, timeOfDay, who } from './pool';
import type { ComfyServer, Standing } from './pool';

/** What the view asks of whoever shows it. */
export interface LockWishes {
  lock(comfyId: string, mode: string, wait: boolean): void;
  release(): void;
  leave(): void;
  /** Have the Jupyter server release what the kernel cannot. */
  force(): void;
}

/** What there is to show. */
export interface Shown extends Standing {
  readonly holderId: string;
  /** For what and how the kernel waits; "" if it does not. */
  readonly waiting: string;
  readonly doing: string;
  readonly note: string;
  /** Whether the kernel has not heard the last message. */
  readonly deaf: boolean;
  /** Whether what it has not heard is a release, which can be forced. */
  readonly canForce: boolean;
}

/** The kernel's lock, and the pool to choose from. */
export class LockView {
  constructor(
    el: HTMLElement,
    private readonly _wishes: LockWishes,
    private readonly _signal: AbortSignal
  ) {
    el.classList.add('jp-Comfy', 'jp-ComfyLock');
    this._el = el;
    this._release = button('Release', () => _wishes.release(), _signal);
    this._change = button('', () => this._onChange(), _signal);
    this._leave = button('Leave the line', () => _wishes.leave(), _signal);
    this._force = button('Release now, cancel its prompts', () => _wishes.force(), _signal);
    const head = element('div', 'jp-ComfyLock-head');
    const doing = element('div', 'jp-ComfyLock-doing');
    doing.setAttribute('role', 'status');
    this._note.setAttribute('role', 'alert');
    doing.append(this._doing, this._leave, this._force);
    head.append(this._badge, this._title, this._facts, this._change, this._release);
    const heading = element('tr', '');
    for (const name of ['Server', 'Health', 'Places', 'Queue', 'Used by', 'Action']) {
      const cell = element('th', '', name);
      cell.scope = 'col';
      heading.append(cell);
    }
    const thead = element('thead', '');
    thead.append(heading);
    this._table.append(thead, this._rows);
    const scroll = element('div', 'jp-ComfyLock-scroll');
    scroll.append(this._table);
    el.append(head, doing, this._note, scroll);
  }

  draw(shown: Shown): void {
    this._shown = shown;
    const { mine } = shown;
    this._el.dataset['state'] =
      shown.waiting || shown.doing ? 'waiting' : mine ? 'held' : 'idle';
    put(this._badge, shown.waiting ? 'waiting' : mine ? 'locked' : 'no lock');
    put(this._title, mine ? mine.server.comfyId : '');
    put(this._facts, mine === null ? 'Nothing is locked.' : facts(mine));
    const alone = mine?.as.mode === 'exclusive';
    put(this._change, alone ? 'Share it' : 'Have it alone');
    this._release.hidden = this._change.hidden = mine === null;
    const doing = shown.doing && !shown.waiting ? `${shown.doing} …` : shown.waiting;
    const deaf = 'The kernel runs a cell, or is gone. It hears of this when that cell has ended.';
    put(this._doing, shown.deaf ? deaf : doing);
    this._leave.hidden = shown.waiting === '';
    this._force.hidden = !(shown.deaf && shown.canForce);
    put(this._note, shown.note);
    this._note.hidden = shown.note === '';
    this._table.hidden = shown.servers.length === 0;
    const busy = shown.doing !== '' || shown.waiting !== '';
    this._change.disabled = busy;
    // Redrawn only when something has changed: a button keeps its focus.
    fill(this._rows, JSON.stringify([shown.servers, shown.holderId, busy]), () =>
      shown.servers.map(server => this._row(server, shown, busy))
    );
  }

  private _row(server: ComfyServer, shown: Shown, busy: boolean): HTMLElement {
    const row = element('tr', '');
    const isMine = shown.mine?.server.comfyId === server.comfyId;
    row.dataset['health'] = isUsable(server) ? 'ok' : 'bad';
    row.dataset['mine'] = String(isMine);
    const name = element('th', '', server.comfyId);
    name.scope = 'row';
    if (server.labels.length > 0) {
      name.append(element('small', 'jp-Comfy-quiet', ` ${server.labels.join(', ')}`));
    }
    const users = server.holders.map(each => who(each, shown.holderId));
    const waiters = server.waiting.map((each, i) => `${i + 1}. ${who(each, shown.holderId)}`);
    const used = element('td', '', users.join(', '));
    if (waiters.length > 0) {
      used.append(element('div', 'jp-Comfy-quiet', `waiting: ${waiters.join(', ')}`));
    }
    const act = element('td', '');
    if (isMine) {
      act.append(element('span', 'jp-Comfy-quiet', '✓ yours'));
    } else {
      const free = places(server) > 0 && server.waiting.length === 0;
      const verb = shown.mine === null ? 'Lock' : 'Switch';
      const press = () => this._wishes.lock(server.comfyId, '', !free);
      const go = button(free ? verb : 'Wait for it', press, this._signal);
      go.setAttribute('aria-label', `${go.textContent}: ${server.comfyId}`);
      go.disabled = busy || !isUsable(server);
      act.append(go);
    }
    row.append(
      name,
      this._health(server),
      element('td', '', room(server)),
      element('td', '', server.queue === null ? '' : String(server.queue)),
      used,
      act
    );
    return row;
  }

  private _health(server: ComfyServer): HTMLElement {
    const cell = element('td', 'jp-ComfyLock-health');
    const sign = element('span', 'jp-Comfy-sign', isUsable(server) ? '●' : '✕');
    sign.setAttribute('aria-hidden', 'true');
    cell.append(sign, ` ${health(server)}`);
    return cell;
  }

  private _onChange(): void {
    const mine = this._shown?.mine;
    if (mine) {
      const mode = mine.as.mode === 'exclusive' ? 'shared' : 'exclusive';
      this._wishes.lock(mine.server.comfyId, mode, mode === 'exclusive');
    }
  }

  private readonly _el: HTMLElement;
  private readonly _badge = element('span', 'jp-Comfy-badge');
  private readonly _title = element('strong', '');
  private readonly _facts = element('span', '');
  private readonly _change: HTMLButtonElement;
  private readonly _release: HTMLButtonElement;
  private readonly _doing = element('span', '');
  private readonly _leave: HTMLButtonElement;
  private readonly _force: HTMLButtonElement;
  private readonly _note = element('p', 'jp-ComfyLock-note');
  private readonly _table = element('table', 'jp-ComfyLock-pool');
  private readonly _rows = element('tbody', '');
  private _shown: Shown | null = null;
}

function facts({ server, as }: NonNullable<Standing['mine']>): string {
  const others = server.holders.length - 1;
  const shared =
    as.mode === 'exclusive'
      ? 'exclusive'
      : others === 0
        ? 'shared, with nobody now'
        : `shared with ${others} other${others === 1 ? '' : 's'}`;
  const since = as.since > 0 ? `since ${timeOfDay(as.since)}` : '';
  return [shared, since, health(server)].filter(part => part !== '').join(' · ');
}
