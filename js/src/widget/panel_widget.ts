import type { Render } from '@anywidget/types';

import { Connection } from './connection';
import { button, element, fill, put } from './dom';
import { FieldView } from './field';
import { groups, readFields } from './form';
import { Gallery } from './gallery';
import { isImage } from './labels';
import { list, record, text } from './json';
import { readTask } from './task';
import { showTask } from './task_widget';

/** Said instead of seeming dead. */
const DEAF = 'The kernel runs a cell. It takes this up when that cell has ended.';

/** Draws `Panel` of Python: a form, what came of it, and the pictures before. */
export const renderPanel: Render = ({ model, el, signal }) => {
  const connection = new Connection(model, signal);
  el.classList.add('jp-Comfy', 'jp-ComfyPanel');
  const form = element('form', 'jp-ComfyPanel-form');
  const said = element('span', 'jp-ComfyPanel-said');
  said.setAttribute('role', 'status');
  const shown = element('div', 'jp-ComfyPanel-task');
  const before = element('details', 'jp-Comfy-fold');
  const pictures = new Gallery(connection.files, signal);
  before.append(element('summary', 'jp-Comfy-summary', 'Pictures before'), pictures.node);
  let deaf = false;
  let waits = false;

  const hears = (): { deaf: () => void; heard: () => void } => ({
    deaf: () => {
      deaf = true;
      draw();
    },
    heard: () => {
      deaf = false;
      draw();
    }
  });
  const tell = (message: Record<string, unknown>, buffers: ArrayBuffer[] = []): void => {
    const on = hears();
    connection.tell(message, on.deaf, on.heard, buffers);
  };
  const fields = readFields(model.get('fields')).map(
    field =>
      new FieldView(
        field,
        {
          set: (key, value) => tell({ kind: 'set', values: { [key]: value } }),
          picture: (key, file) =>
            void file
              .arrayBuffer()
              .then(bytes => tell({ kind: 'picture', key, filename: file.name }, [bytes]))
        },
        signal
      )
  );
  for (const group of groups(fields.map(each => each.field))) {
    const set = element('fieldset', 'jp-ComfyPanel-group');
    set.append(element('legend', 'jp-ComfyPanel-title', group.title));
    set.append(...fields.filter(each => group.fields.includes(each.field)).map(f => f.node));
    form.append(set);
  }
  const values = (): Record<string, unknown> =>
    Object.fromEntries(
      fields
        .filter(each => !each.isPicked && each.field.kind !== 'other')
        .map(each => [each.field.key, each.value])
    );
  const submit = (): void => {
    const wrong = fields.find(each => !each.isRight);
    if (wrong !== undefined) {
      wrong.focus();
      return;
    }
    waits = true;
    draw();
    connection.tell(
      { kind: 'submit', values: values() },
      () => hears().deaf(),
      () => {
        waits = false;
        hears().heard();
      }
    );
  };
  const run = button('Run', submit, signal);
  run.classList.add('jp-Comfy-primary');
  const foot = element('div', 'jp-ComfyPanel-foot');
  foot.append(run, said);
  form.append(foot);
  form.addEventListener(
    'submit',
    event => {
      event.preventDefault();
      submit();
    },
    { signal }
  );

  const draw = (): void => {
    const errors = record(model.get('errors'));
    const current = record(model.get('values'));
    for (const each of fields) {
      each.draw(current[each.field.key], text(errors[each.field.key]));
    }
    const busy = waits || model.get('submitting') === true;
    run.disabled = busy;
    const note = text(model.get('note'));
    put(said, deaf ? DEAF : note || (busy ? 'On its way …' : ''));
    said.dataset['wrong'] = String(!deaf && note !== '');
    shown.hidden = text(record(model.get('task'))['task_id']) === '';
    drawHistory();
  };
  const drawHistory = (): void => {
    const files = list(model.get('history'))
      .flatMap(data => readTask(data)?.files ?? [])
      .filter(file => isImage(file.mediaType));
    before.hidden = files.length === 0;
    fill(before, JSON.stringify(files), () => {
      pictures.clear();
      pictures.draw(files, []);
      return [...before.childNodes];
    });
  };

  el.append(form, shown, before);
  showTask(shown, model, connection, signal);
  connection.listen(['values', 'errors', 'note', 'submitting', 'task', 'history'], draw);
  draw();
};
