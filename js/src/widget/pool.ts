import { list, number, record, text } from './json';

/** Who uses a ComfyUI server, or waits for one. */
export interface Holder {
  readonly holderId: string;
  readonly name: string;
  readonly mode: string;
  /** Seconds since the epoch. */
  readonly since: number;
  /** "draining": it let go, and its prompts have not left yet. */
  readonly state: string;
}

/** A ComfyUI server of the pool. */
export interface ComfyServer {
  readonly comfyId: string;
  readonly labels: readonly string[];
  readonly capacity: number;
  readonly health: string;
  readonly reason: string;
  readonly device: string;
  /** Prompts that wait or run there, of everybody; null when unknown. */
  readonly queue: number | null;
  /** "open", or what an operator made of it: "draining" or "disabled". */
  readonly state: string;
  readonly stateBy: string;
  readonly stateWhy: string;
  readonly holders: readonly Holder[];
  /** In the order of their turns. */
  readonly waiting: readonly Holder[];
}

/** The pool, and where one kernel stands in it. */
export interface Standing {
  readonly servers: readonly ComfyServer[];
  /** What the kernel has locked, and as what. */
  readonly mine: { readonly server: ComfyServer; readonly as: Holder } | null;
}

/** The ComfyUI servers in `data`, which is REST's list of them. */
export function readPool(data: unknown): readonly ComfyServer[] {
  return list(data).map(record).map(server => ({
    comfyId: text(server['comfy_id']),
    labels: list(server['labels']).map(text),
    capacity: number(server['capacity']),
    health: text(server['health']),
    reason: text(server['reason']),
    device: text(server['device']),
    queue:
      typeof server['queue_remaining'] === 'number'
        ? server['queue_remaining']
        : null,
    state: text(server['state']) || 'open',
    stateBy: text(server['state_by']),
    stateWhy: text(server['state_why']),
    holders: list(server['holders']).map(readHolder),
    waiting: list(server['waiting']).map(readHolder)
  }));
}

/** Where the kernel `holderId` stands. */
export function standing(
  servers: readonly ComfyServer[],
  holderId: string
): Standing {
  for (const server of servers) {
    const as = server.holders.find(
      each => each.holderId === holderId && each.state !== 'draining'
    );
    if (as !== undefined) {
      return { servers, mine: { server, as } };
    }
  }
  return { servers, mine: null };
}

/** The places that a ComfyUI server has left for who shares it. */
export function places(server: ComfyServer): number {
  const alone = server.holders.some(each => each.mode === 'exclusive');
  return alone ? 0 : Math.max(0, server.capacity - server.holders.length);
}

/** "3 of 4 places free", "held exclusively", "full" */
export function room(server: ComfyServer): string {
  if (server.holders.some(each => each.mode === 'exclusive')) {
    return 'held exclusively';
  }
  const free = places(server);
  return free === 0 ? 'full' : `${free} of ${server.capacity} free`;
}

/** "ok", "unreachable: no answer", "ok, draining by ann: new driver" */
export function health(server: ComfyServer): string {
  const does = [server.health, server.reason].filter(part => part).join(': ');
  if (server.state === 'open') {
    return does;
  }
  const by = server.stateBy ? ` by ${server.stateBy}` : '';
  const why = server.stateWhy ? `: ${server.stateWhy}` : '';
  return `${does}, ${server.state}${by}${why}`;
}

/** Whether somebody may lock it now, or stand in line for it. */
export function isUsable(server: ComfyServer): boolean {
  return server.health === 'ok' && server.state === 'open';
}

/** "a.ipynb (since 14:02)" */
export function who(holder: Holder, holderId: string): string {
  const name =
    holder.holderId === holderId ? 'this notebook' : holder.name || 'another kernel';
  const more = [
    holder.mode === 'exclusive' ? 'exclusively' : '',
    holder.state === 'draining' ? 'leaving' : '',
    holder.since > 0 ? `since ${timeOfDay(holder.since)}` : ''
  ].filter(part => part !== '');
  return more.length === 0 ? name : `${name} (${more.join(', ')})`;
}

/** "14:02", in the time of whoever looks. */
export function timeOfDay(seconds: number): string {
  const at = new Date(seconds * 1000);
  const two = (n: number) => String(n).padStart(2, '0');
  return `${two(at.getHours())}:${two(at.getMinutes())}`;
}

function readHolder(data: unknown): Holder {
  const holder = record(data);
  return {
    holderId: text(holder['holder_id']),
    name: text(holder['name']),
    mode: text(holder['mode']),
    since: number(holder['since']),
    state: text(holder['state'])
  };
}
