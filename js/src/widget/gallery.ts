import { button, complaint, element, put } from './dom';
import { isImage } from './labels';
import { Picture } from './pictures';
import type { Files } from './pictures';
import type { TaskFile, TaskText } from './task';
import { zoom } from './zoom';
import type { Zoomed } from './zoom';

/** What a task has left: pictures, sound, films and texts in place, other files to download. */
export class Gallery {
  readonly node = element('div', 'jp-ComfyTask-gallery');

  constructor(
    private readonly _files: Files,
    private readonly _signal: AbortSignal
  ) {
    _signal.addEventListener('abort', () => this._release());
  }

  /** Add what is not there yet. */
  draw(files: readonly TaskFile[], texts: readonly TaskText[]): void {
    for (const file of files) {
      if (!this._shown.has(file.path)) {
        this._shown.add(file.path);
        this.node.append(this._fileNode(file));
      }
    }
    texts.forEach((said, index) => {
      const key = `${said.nodeId} ${index}`;
      if (!this._shown.has(key)) {
        this._shown.add(key);
        this.node.append(element('pre', 'jp-Comfy-said', said.text));
      }
    });
  }

  /** Begin anew, for another task. */
  clear(): void {
    this._release();
    this._shown.clear();
    this._zoomed.length = 0;
    this.node.replaceChildren();
  }

  private _fileNode(file: TaskFile): HTMLElement {
    if (isImage(file.mediaType)) {
      return this._picture(file);
    }
    const player = PLAYERS[file.mediaType.split('/')[0] ?? ''];
    return player === undefined ? this._download(file) : this._player(file, player);
  }

  private _picture(file: TaskFile): HTMLElement {
    const picture = new Picture(this._files, this._signal);
    const shown = { image: picture.node, caption: file.filename, filename: file.filename };
    const open = () => zoom(this._zoomed, this._zoomed.indexOf(shown), this._signal);
    const node = button('', open, this._signal);
    node.className = 'jp-ComfyTask-thumbnail';
    node.title = `${file.filename}: show it large`;
    picture.node.alt = file.filename;
    picture.show(file.path, reason => put(node, `${file.filename}: ${reason}`));
    node.append(picture.node);
    this._zoomed.push(shown);
    return node;
  }

  private _player(file: TaskFile, kind: 'video' | 'audio'): HTMLElement {
    const node = element('figure', 'jp-Comfy-player');
    const player = element(kind, '');
    player.controls = true;
    player.setAttribute('aria-label', file.filename);
    const download = this._download(file);
    node.append(player, download);
    void this._url(file).then(
      url => (player.src = url),
      (error: unknown) => put(download, `${file.filename}: ${complaint(error)}`)
    );
    return node;
  }

  private _download(file: TaskFile): HTMLElement {
    const node = button(`Download ${file.filename}`, () => void save(), this._signal);
    const save = async (): Promise<void> => {
      try {
        const link = element('a', '');
        link.href = await this._url(file);
        link.download = file.filename;
        link.click();
      } catch (error) {
        put(node, `${file.filename}: ${complaint(error)}`);
      }
    };
    return node;
  }

  /** By bytes and not by a link: behind JupyterHub a GET needs the XSRF header too. */
  private async _url(file: TaskFile): Promise<string> {
    const known = this._urls.get(file.path);
    if (known !== undefined) {
      return known;
    }
    const bytes = await this._files.bytes(file.path, this._signal);
    const url = URL.createObjectURL(new Blob([bytes], { type: file.mediaType }));
    this._urls.set(file.path, url);
    return url;
  }

  private _release(): void {
    for (const url of this._urls.values()) {
      URL.revokeObjectURL(url);
    }
    this._urls.clear();
  }

  private readonly _shown = new Set<string>();
  private readonly _zoomed: Zoomed[] = [];
  private readonly _urls = new Map<string, string>();
}

const PLAYERS: Readonly<Record<string, 'video' | 'audio'>> = {
  video: 'video',
  audio: 'audio'
};
