import type { Render } from '@anywidget/types';

import { Connection } from './connection';
import { complaint } from './dom';
import { record, text } from './json';
import { LockView } from './lock_view';
import { readPool, standing } from './pool';
import type { ComfyServer } from './pool';

/** Milliseconds between two looks at the pool while somebody can see it. */
const LOOK_MS = 3_000;

/**
 * Draws `LockView` of Python.
 *
 * A lock is the kernel's to take: its credential acts for it alone, and no page has it. What
 * can be seen, and a release, the Jupyter server does also while the kernel runs a cell.
 */
export const renderLock: Render = ({ model, el, signal }) => {
  const connection = new Connection(model, signal);
  const { page } = connection;
  let asked: readonly ComfyServer[] | null = null;
  let deaf = false;
  let releasing = false;
  let problem = '';
  const held = () =>
    standing(asked ?? readPool(model.get('pool')), text(model.get('holder_id')));
  const draw = (): void => {
    const waiting = record(model.get('waiting'));
    view.draw({
      ...held(),
      holderId: text(model.get('holder_id')),
      waiting: text(waiting['why']) && `Waiting: ${text(waiting['why'])}.`,
      doing: text(model.get('doing')),
      note: problem || text(model.get('note')),
      deaf,
      canForce: releasing && page !== null
    });
  };
  const look = async (): Promise<void> => {
    if (document.hidden || signal.aborted) {
      return;
    }
    if (page === null) {
      connection.tell({ kind: 'look' });
      return;
    }
    try {
      const pool = await page.json(`${connection.apiPath}pool`, signal);
      asked = readPool(record(pool)['servers']);
      draw();
    } catch {
      // Away, or restarting: what is shown stays until somebody knows better.
    }
  };
  const tell = (message: Record<string, unknown>): void => {
    deaf = false;
    problem = '';
    const isDeaf = () => {
      deaf = true;
      draw();
    };
    const heard = () => {
      deaf = false;
      draw();
    };
    connection.tell(message, isDeaf, heard);
    draw();
  };
  const force = async (): Promise<void> => {
    const id = encodeURIComponent(text(model.get('holder_id')));
    const path = `${connection.apiPath}holders/${id}/release`;
    deaf = false;
    try {
      await page?.post(path, signal, { why: 'Release was pressed in its notebook' });
    } catch (error) {
      problem = `Could not release: ${complaint(error)}`;
    }
    await look();
    draw();
  };
  const release = (): void => {
    const { mine } = held();
    if (mine === null) {
      return;
    }
    releasing = true;
    // Its own release lets the prompts run to their end. The Jupyter server's does not, so it is
    // asked only when the kernel cannot hear, and the person says so.
    tell({ kind: 'release', comfy_id: mine.server.comfyId, since: mine.as.since });
  };
  const view = new LockView(
    el,
    {
      lock: (comfyId, mode, wait) => {
        releasing = false;
        tell({ kind: 'lock', comfy_id: comfyId, mode, wait });
      },
      release,
      force: () => void force(),
      leave: () => tell({ kind: 'leave' })
    },
    signal
  );
  connection.listen(['pool', 'waiting', 'doing', 'note', 'holder_id'], () => {
    // What the kernel says is as new as what it answers to.
    asked = null;
    draw();
  });
  const timer = setInterval(() => void look(), LOOK_MS);
  signal.addEventListener('abort', () => clearInterval(timer));
  document.addEventListener('visibilitychange', () => void look(), { signal });
  draw();
  void look();
};
