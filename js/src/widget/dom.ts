/** An element with one class of ours: `jp-Comfy-` is shared by all views, others are a view's. */
export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className: string,
  text = ''
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

/** A button that does `press`, until `signal`. */
export function button(
  label: string,
  press: () => void,
  signal: AbortSignal
): HTMLButtonElement {
  const node = element('button', 'jp-Comfy-button', label);
  node.type = 'button';
  node.addEventListener('click', press, { signal });
  return node;
}

/** Writing the same text again would make screen readers read it again. */
export function put(node: HTMLElement, text: string): void {
  if (node.textContent !== text) {
    node.textContent = text;
  }
}

/** Put `children` into `node` if `key`, which says what they show, is not what is there. */
export function fill(
  node: HTMLElement,
  key: string,
  children: () => readonly Node[]
): void {
  if (node.dataset['shown'] !== key) {
    node.dataset['shown'] = key;
    node.replaceChildren(...children());
  }
}

/** What a person is told of what was thrown. */
export function complaint(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
