/** The Jupyter server that the page came from. */
export class JupyterPage {
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
    return (await this._request('GET', path, signal)).blob();
  }

  /** @throws Error naming the status that is not a success. */
  async post(path: string, signal: AbortSignal): Promise<void> {
    await this._request('POST', path, signal);
  }

  private async _request(
    method: 'GET' | 'POST',
    path: string,
    signal: AbortSignal
  ): Promise<Response> {
    const response = await fetch(this.url(path), {
      method,
      signal,
      credentials: 'same-origin',
      headers: this._headers(),
      ...(method === 'POST' ? { body: '{}' } : {})
    });
    if (!response.ok) {
      throw new Error(await complaint(response));
    }
    return response;
  }

  private _headers(): Record<string, string> {
    const xsrf = /(?:^|;\s*)_xsrf=([^;]*)/.exec(document.cookie)?.[1];
    return {
      ...(xsrf ? { 'X-XSRFToken': xsrf } : {}),
      ...(this._token ? { Authorization: `token ${this._token}` } : {})
    };
  }
}

async function complaint(response: Response): Promise<string> {
  const status = `${response.status} ${response.statusText}`.trim();
  try {
    const body: unknown = await response.json();
    const message = (body as { message?: unknown } | null)?.message;
    return typeof message === 'string' && message ? message : status;
  } catch {
    return status;
  }
}
