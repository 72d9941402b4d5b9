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
  /** "held", or "draining" when it let go and its prompts have not left yet. */
  readonly state: string;
}

/** A kernel that waits for a ComfyUI server. */
export interface IWaiter {
  readonly holderId: string;
  readonly name: string;
  readonly mode: string;
  /** 1 for who is next. */
  readonly place: number;
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
  /** "open", or what somebody made of it: "draining" or "disabled". */
  readonly state: string;
  /** Who closed it; null when it is open. */
  readonly stateBy: string | null;
  readonly stateWhy: string | null;
  /** In the order of their turns. */
  readonly waiting: ReadonlyArray<IWaiter>;
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
    ),
    // Servers before locks could be waited for send none of these.
    state: or('open', string, server, 'state', where),
    stateBy: or(null, string, server, 'state_by', where),
    stateWhy: or(null, string, server, 'state_why', where),
    waiting: or([], list, server, 'waiting', where).map((waiter, n) =>
      parseWaiter(waiter, `${where}.waiting[${n}]`)
    )
  };
}

function parseHolder(data: unknown, where: string): IHolder {
  const holder = object(data, where);
  return {
    holderId: string(holder, 'holder_id', where),
    name: string(holder, 'name', where),
    mode: string(holder, 'mode', where),
    since: number(holder, 'since', where),
    state: or('held', string, holder, 'state', where)
  };
}

function parseWaiter(data: unknown, where: string): IWaiter {
  const waiter = object(data, where);
  return {
    holderId: string(waiter, 'holder_id', where),
    name: string(waiter, 'name', where),
    mode: string(waiter, 'mode', where),
    place: number(waiter, 'place', where)
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

function or<T, D>(
  missing: D,
  read: (fields: Fields, name: string, where: string) => T,
  fields: Fields,
  name: string,
  where: string
): T | D {
  return fields[name] === null || fields[name] === undefined
    ? missing
    : read(fields, name, where);
}

function join(where: string, name: string): string {
  return where === '' ? name : `${where}.${name}`;
}

function wrong(where: string, promised: string, value: unknown): Error {
  const got = value === undefined ? 'nothing' : JSON.stringify(value);
  return new Error(`The server sent ${got} for ${where}, not ${promised}`);
}
