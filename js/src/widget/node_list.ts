import { element, fill, put } from './dom';
import { nodeState, tally } from './labels';
import type { SentNode, SentValue, Task } from './task';

/** Signs beside the words, so that no state is told by its colour alone. */
const SIGNS: Readonly<Record<string, string>> = {
  done: '✓',
  cached: '↺',
  running: '▸',
  waiting: '·',
  failed: '✕',
  'left out': '⚠',
  'did not run': '–'
};

/** The nodes of a task, folded away; each draw changes only what has changed. */
export class NodeList {
  readonly node = element('details', 'jp-Comfy-fold');

  constructor() {
    this.node.append(this._title, this._list);
    this.node.addEventListener('toggle', () => this._last());
  }

  draw(nodes: readonly SentNode[], task: Task): void {
    this.node.hidden = nodes.length === 0;
    const states = nodes.map(node => nodeState(node, task));
    const told = tally(states);
    put(this._title, told === '' ? 'Nodes' : `Nodes: ${told}`);
    // A long list that nobody looks at costs nothing.
    if (!this.node.open) {
      this._last = () => this.draw(nodes, task);
      return;
    }
    fill(this._list, nodes.map(node => node.id).join(' '), () =>
      nodes.map(node => this._item(node))
    );
    [...this._list.children].forEach((item, index) => {
      const state = states[index] ?? '';
      const [sign, , word] = [...item.children] as [HTMLElement, HTMLElement, HTMLElement];
      (item as HTMLElement).dataset['state'] = state;
      put(sign, SIGNS[state] ?? '');
      put(word, state);
    });
  }

  private _item({ id, title, nodeClass }: SentNode): HTMLElement {
    const item = element('li', 'jp-Comfy-node');
    const sign = element('span', 'jp-Comfy-sign');
    sign.setAttribute('aria-hidden', 'true');
    const name = element('span', 'jp-Comfy-nodeName', title || nodeClass);
    const what = title && title !== nodeClass ? `${nodeClass}, ${id}` : id;
    name.append(element('small', 'jp-Comfy-quiet', ` ${what}`));
    item.append(sign, name, element('span', 'jp-Comfy-nodeState'));
    return item;
  }

  private _last: () => void = () => undefined;
  private readonly _title = element('summary', 'jp-Comfy-summary', 'Nodes');
  private readonly _list = element('ul', 'jp-Comfy-nodes');
}

/** The values that were sent, folded away, under the titles of their nodes. */
export class ValueList {
  readonly node = element('details', 'jp-Comfy-fold');

  constructor() {
    this.node.append(element('summary', 'jp-Comfy-summary', 'Parameters'), this._list);
  }

  draw(values: readonly SentValue[], nodes: readonly SentNode[]): void {
    this.node.hidden = values.length === 0;
    const titles = new Map(nodes.map(node => [node.id, node.title || node.nodeClass]));
    fill(this._list, JSON.stringify(values), () => {
      let shown = '';
      return values.flatMap(({ nodeId, name, value }) => {
        const head =
          nodeId === shown
            ? []
            : [element('li', 'jp-Comfy-valueNode', titles.get(nodeId) ?? nodeId)];
        shown = nodeId;
        const pair = element('li', 'jp-Comfy-value');
        pair.append(
          element('span', 'jp-Comfy-quiet', `${name} `),
          element('span', 'jp-Comfy-valueText', value)
        );
        return [...head, pair];
      });
    });
  }

  private readonly _list = element('ul', 'jp-Comfy-values');
}
