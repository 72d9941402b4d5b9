import type { Files } from './pictures';

/** The Jupyter server that the page came from. */
export class JupyterPage implements Files {
  private constructor(
    private readonly _baseUrl: string,
    private readonly _token: string
  ) {}

  /** The page's server; null where there is none (a saved page, VS Code, Colab). */
  static find(): JupyterPage | null {
    const config = document.getElementById('jupyter-config-data');
    try {
      const { baseUrl, token } = JSON.parse(
        config?.textContent ?? ''
      ) as Record<string, unknown>;
      return typeof baseUrl === 'string'
        ? new JupyterPage(baseUrl, typeof token === 'string' ? token : '')
        : null;
    } catch {
      return null;
    }
  }

  /** The address of `path`, which is relative to the server's base URL. */
  url(path: string): string {
    return this._baseUrl.replace(/\/*$/, '/') + path.replace(/^\/+/, '');
  }

  /**
   * Fetch the bytes at `path`.
   *
   * Not by an <img>'s own request: behind JupyterHub a GET needs the XSRF header too.
   *
   * @throws Error naming the status that is not a success.
   */
  async bytes(path: string, signal: AbortSignal): Promise<Blob> {
    return (await checked(await this._send('GET', path, signal))).blob();
  }

  /**
   * Fetch the JSON at `path`; null where there is nothing (404).
   *
   * @throws Error naming any other status that is not a success.
   */
  async json(path: string, signal: AbortSignal): Promise<unknown> {
    const response = await this._send('GET', path, signal);
    return response.status === 404 ? null : (await checked(response)).json();
  }

  /** @throws Error naming the status that is not a success. */
  async post(path: string, signal: AbortSignal, body: object = {}): Promise<void> {
    await checked(await this._send('POST', path, signal, body));
  }

  private _send(
    method: 'GET' | 'POST',
    path: string,
    signal: AbortSignal,
    body: object = {}
  ): Promise<Response> {
    return fetch(this.url(path), {
      method,
      signal,
      credentials: 'same-origin',
      headers: this._headers(),
      ...(method === 'POST' ? { body: JSON.stringify(body) } : {})
    });
  }

  private _headers(): Record<string, string> {
    const xsrf = /(?:^|;\s*)_xsrf=([^;]*)/.exec(document.cookie)?.[1];
    return {
      ...(xsrf ? { 'X-XSRFToken': xsrf } : {}),
      ...(this._token ? { Authorization: `token ${this._token}` } : {})
    };
  }
}

async function checked(response: Response): Promise<Response> {
  if (!response.ok) {
    throw new Error(await refusal(response));
  }
  return response;
}

async function refusal(response: Response): Promise<string> {
  const status = `${response.status} ${response.statusText}`.trim();
  try {
    const body: unknown = await response.json();
    const message = (body as { message?: unknown } | null)?.message;
    return typeof message === 'string' && message ? message : status;
  } catch {
    return status;
  }
}
