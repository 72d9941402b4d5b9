import { Dialog, showDialog } from '@jupyterlab/apputils';
import { Widget } from '@lumino/widgets';

import type { IComfyServer } from './rest';

const HEADINGS = ['ComfyUI server', 'Health', 'Version', 'Queue', 'Used by'];

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
    server.reason === null
      ? server.health
      : `${server.health}: ${server.reason}`,
    server.version ?? '',
    server.queueRemaining === null ? '' : String(server.queueRemaining),
    server.holders
      .map(holder => `${holder.name || holder.holderId} (${holder.mode})`)
      .join(', ')
  ];
}
