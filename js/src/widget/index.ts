import type { Render } from '@anywidget/types';

import { renderLock } from './lock_widget';
import { renderPanel } from './panel_widget';
import { renderSweep } from './sweep_widget';
import { renderTask } from './task_widget';

/** By the trait `view` of the Python side. */
const VIEWS: Readonly<Record<string, Render>> = {
  lock: renderLock,
  panel: renderPanel,
  sweep: renderSweep,
  task: renderTask
};

const render: Render = props => {
  const draw = VIEWS[String(props.model.get('view'))];
  if (draw === undefined) {
    // A notebook that another version has saved.
    props.el.textContent =
      'This view needs another version of jupyter_comfy_lock: run its cell again.';
    return;
  }
  return draw(props);
};

export default { render };
