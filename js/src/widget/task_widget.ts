import type { AnyModel, Render } from '@anywidget/types';

import { Connection } from './connection';
import { Follower } from './follower';
import { text } from './json';
import { readNodes, readTask, readValues } from './task';
import type { Task } from './task';
import { TaskView } from './view';

/** Draws `TaskView` of Python. */
export const renderTask: Render = ({ model, el, signal }) => {
  showTask(el, model, new Connection(model, signal), signal);
};

/** Show the task of a model that has the traits of `TaskView` in Python. */
export function showTask(
  el: HTMLElement,
  model: AnyModel,
  connection: Connection,
  signal: AbortSignal
): void {
  const { page } = connection;
  const path = (id: string): string =>
    `${connection.apiPath}tasks/${encodeURIComponent(id)}`;
  const ask =
    page === null
      ? null
      : async (id: string): Promise<Task | null> =>
          readTask(await page.json(path(id), signal));
  const view = new TaskView(
    el,
    connection.files,
    {
      cancel: task => cancel(task.id),
      previewPath: task => (page === null ? null : `${path(task.id)}/preview`)
    },
    signal
  );
  const draw = (): void =>
    view.draw(follower.task, {
      label: text(model.get('label')),
      nodes: readNodes(model.get('nodes')),
      values: readValues(model.get('parameters'))
    });
  const follower = new Follower(ask, draw, signal);
  const cancel = async (id: string): Promise<void> => {
    if (page === null) {
      // A kernel that runs a cell hears it only after that, but there is no other way.
      return new Promise((resolve, reject) => {
        const deaf = () => reject(new Error('the kernel hears of it when its cell has ended.'));
        connection.tell({ kind: 'cancel' }, deaf, resolve);
      });
    }
    try {
      await page.post(`${path(id)}/cancel`, signal);
    } finally {
      // Whether it was refused because the task has ended shows as well.
      void follower.look();
    }
  };
  const hear = (): void => follower.hear(readTask(model.get('task')));
  connection.listen(['task'], hear);
  connection.listen(['label', 'nodes', 'parameters', 'api_path'], draw);
  connection.hear('preview', bytes => view.preview(bytes));
  // Browsers hold back what hidden pages do.
  const look = (): void => {
    if (!document.hidden) {
      void follower.look();
    }
  };
  document.addEventListener('visibilitychange', look, { signal });
  hear();
}
