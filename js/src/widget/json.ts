/**
 * What another version may have saved, or not: whatever is missing or of another type reads as
 * "not known".
 */
export function record(data: unknown): Record<string, unknown> {
  return typeof data === 'object' && data !== null
    ? (data as Record<string, unknown>)
    : {};
}

export function list(data: unknown): readonly unknown[] {
  return Array.isArray(data) ? data : [];
}

export function text(data: unknown): string {
  return typeof data === 'string' || typeof data === 'number'
    ? String(data)
    : '';
}

export function number(data: unknown): number {
  return typeof data === 'number' && Number.isFinite(data) ? data : 0;
}

export function moment(data: unknown): number | null {
  return typeof data === 'number' ? data : null;
}
