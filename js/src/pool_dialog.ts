import { Dialog, showDialog } from '@jupyterlab/apputils';
import { Widget } from '@lumino/widgets';

import type { IComfyServer, IHolder, IWaiter } from './rest';

const HEADINGS = [
  'ComfyUI server',
  'Health',
  'Version',
  'Queue',
  'Used by',
  'Waiting'
];

/** Show the pool in a dialog until the person closes it. */
export async function showPool(
  servers: ReadonlyArray<IComfyServer>
): Promise<void> {
  await showDialog({
    title: 'ComfyUI servers',
    body: new PoolTable(servers),
    buttons: [Dialog.okButton({ label: 'Close' })]
  });
}

class PoolTable extends Widget {
  constructor(servers: ReadonlyArray<IComfyServer>) {
    super();
    this.addClass('jp-ComfyPoolTable');
    if (servers.length === 0) {
      this.node.textContent =
        'The pool is empty: name ComfyUI servers in c.ComfyLock.pool.';
      return;
    }
    const table = document.createElement('table');
    const head = table.createTHead().insertRow();
    for (const heading of HEADINGS) {
      const cell = document.createElement('th');
      cell.scope = 'col';
      cell.textContent = heading;
      head.append(cell);
    }
    const body = table.createTBody();
    for (const server of servers) {
      const row = body.insertRow();
      row.dataset['health'] = server.health;
      row.dataset['state'] = server.state;
      row.title = server.url;
      for (const text of poolRow(server)) {
        row.insertCell().textContent = text;
      }
    }
    this.node.append(table);
  }
}

/** The table's cells for one server, in the order of the headings. */
export function poolRow(server: IComfyServer): string[] {
  return [
    server.comfyId,
    standing(server),
    server.version ?? '',
    server.queueRemaining === null ? '' : String(server.queueRemaining),
    server.holders
      .map(holder => {
        const draining = holder.state === 'draining' ? ', draining' : '';
        return `${label(holder)} (${holder.mode}${draining})`;
      })
      .join(', '),
    server.waiting
      .map(waiter => `${waiter.place}. ${label(waiter)} (${waiter.mode})`)
      .join(', ')
  ];
}

function standing(server: IComfyServer): string {
  const { health, reason, state, stateBy, stateWhy } = server;
  const does = reason === null ? health : `${health}: ${reason}`;
  if (state === 'open') {
    return does;
  }
  const by = stateBy === null ? '' : ` by ${stateBy}`;
  const why = stateWhy === null || stateWhy === '' ? '' : `: ${stateWhy}`;
  return `${does}; ${state}${by}${why}`;
}

function label(who: IHolder | IWaiter): string {
  return who.name || who.holderId;
}
