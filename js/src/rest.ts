import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

/** A kernel that uses a ComfyUI server. */
export interface IHolder {
  readonly holderId: string;
  /** The notebook's path or another name; empty when unknown. */
  readonly name: string;
  readonly mode: string;
  /** Seconds since the epoch. */
  readonly since: number;
}

/** A ComfyUI server of the pool. */
export interface IComfyServer {
  readonly comfyId: string;
  readonly url: string;
  readonly health: string;
  /** Why the health is what it is; null when there is nothing to say. */
  readonly reason: string | null;
  readonly version: string | null;
  /** Prompts that wait or run there, of everybody; null when unknown. */
  readonly queueRemaining: number | null;
  readonly holders: ReadonlyArray<IHolder>;
}

/**
 * The server's REST API. The only file that knows URLs and JSON field names.
 */
export class ComfyLockClient {
  constructor(serverSettings = ServerConnection.makeSettings()) {
    this._settings = serverSettings;
  }

  /**
   * The pool of ComfyUI servers.
   *
   * @throws Error when the server refuses, or does not send what it should.
   */
  async pool(): Promise<ReadonlyArray<IComfyServer>> {
    return parsePool(await this._get('comfy-lock/api/pool'));
  }

  private async _get(path: string): Promise<unknown> {
    const url = URLExt.join(this._settings.baseUrl, path);
    const response = await ServerConnection.makeRequest(
      url,
      {},
      this._settings
    );
    const body: unknown = await response.json().catch(() => null);
    if (!response.ok) {
      const message = (body as { message?: unknown } | null)?.message;
      throw new Error(
        typeof message === 'string' && message !== ''
          ? message
          : `The server answered ${response.status} ${response.statusText}`
      );
    }
    return body;
  }

  private readonly _settings: ServerConnection.ISettings;
}

/**
 * Check what the server sent before the rest of the code trusts it.
 *
 * @throws Error naming the first field that is not as promised.
 */
export function parsePool(data: unknown): ReadonlyArray<IComfyServer> {
  return list(object(data, 'the answer'), 'servers', '').map((server, n) =>
    parseServer(server, `servers[${n}]`)
  );
}

function parseServer(data: unknown, where: string): IComfyServer {
  const server = object(data, where);
  return {
    comfyId: string(server, 'comfy_id', where),
    url: string(server, 'url', where),
    health: string(server, 'health', where),
    reason: orNull(string, server, 'reason', where),
    version: orNull(string, server, 'version', where),
    queueRemaining: orNull(number, server, 'queue_remaining', where),
    holders: list(server, 'holders', where).map((holder, n) =>
      parseHolder(holder, `${where}.holders[${n}]`)
    )
  };
}

function parseHolder(data: unknown, where: string): IHolder {
  const holder = object(data, where);
  return {
    holderId: string(holder, 'holder_id', where),
    name: string(holder, 'name', where),
    mode: string(holder, 'mode', where),
    since: number(holder, 'since', where)
  };
}

type Fields = Readonly<Record<string, unknown>>;

function object(data: unknown, where: string): Fields {
  if (typeof data !== 'object' || data === null || Array.isArray(data)) {
    throw wrong(where, 'an object', data);
  }
  return data as Fields;
}

function list(fields: Fields, name: string, where: string): unknown[] {
  const value = fields[name];
  if (!Array.isArray(value)) {
    throw wrong(join(where, name), 'a list', value);
  }
  return value;
}

function string(fields: Fields, name: string, where: string): string {
  const value = fields[name];
  if (typeof value !== 'string') {
    throw wrong(join(where, name), 'a string', value);
  }
  return value;
}

function number(fields: Fields, name: string, where: string): number {
  const value = fields[name];
  if (typeof value !== 'number') {
    throw wrong(join(where, name), 'a number', value);
  }
  return value;
}

function orNull<T>(
  read: (fields: Fields, name: string, where: string) => T,
  fields: Fields,
  name: string,
  where: string
): T | null {
  return fields[name] === null ? null : read(fields, name, where);
}

function join(where: string, name: string): string {
  return where === '' ? name : `${where}.${name}`;
}

function wrong(where: string, promised: string, value: unknown): Error {
  const got = value === undefined ? 'nothing' : JSON.stringify(value);
  return new Error(`The server sent ${got} for ${where}, not ${promised}`);
}
