import type { Render } from '@anywidget/types';

import { JupyterPage } from './server';
import { readTask } from './task';
import { TaskView } from './view';

/** The traits of the Python side. */
interface Traits extends Record<string, unknown> {
  task: unknown;
  api_path: string;
  label: string;
}

const render: Render<Traits> = ({ model, el, signal }) => {
  const page = JupyterPage.find();
  const apiPath = (): string => model.get('api_path') || 'comfy-lock/api/';
  const cancel = async (id: string): Promise<void> => {
    if (page === null) {
      // Reaches the kernel only between cells, but there is no other way.
      model.send({ kind: 'cancel' });
    } else {
      const path = `${apiPath()}tasks/${encodeURIComponent(id)}/cancel`;
      await page.post(path, signal);
    }
  };
  const view = new TaskView(el, page, { cancel: task => cancel(task.id) }, signal);
  const draw = (): void => {
    view.apiPath = apiPath();
    view.draw(readTask(model.get('task')), model.get('label') || '');
  };
  for (const trait of ['task', 'label', 'api_path'] as const) {
    model.on(`change:${trait}`, draw);
    signal.addEventListener('abort', () => model.off(`change:${trait}`, draw));
  }
  draw();
};

export default { render };
