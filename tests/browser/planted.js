// What the script of a hostile custom node would try. It is served by a ComfyServer below
// /extensions, and ComfyUI's page loads it as it loads any other.
const gateway = new URL('.', location.href).href;
const jupyter = gateway.split('comfy-lock/')[0];
const key = gateway.split('/').at(-2);
const cookies = { credentials: 'include' };

/** What came of it: an answer that can be read, or nothing. */
const tried = async attempt => {
  try {
    const answer = await attempt();
    return answer instanceof Response ? `HTTP ${answer.status}` : String(answer);
  } catch {
    return 'refused';
  }
};

const frame = url =>
  new Promise((resolve, reject) => {
    const element = document.createElement('iframe');
    element.onload = () => {
      try {
        resolve(element.contentWindow.document.cookie);
      } catch (error) {
        reject(error);
      }
    };
    element.src = url;
    document.body.append(element);
  });

const form = url =>
  new Promise(resolve => {
    document.body.insertAdjacentHTML(
      'beforeend',
      `<iframe name="answer"></iframe><form method="post" target="answer" action="${url}"></form>`
    );
    document.querySelector('iframe[name=answer]').onload = () => resolve('sent');
    document.forms[document.forms.length - 1].submit();
  });

const worker = url =>
  new Promise((resolve, reject) => {
    const code = `fetch('${url}', { credentials: 'include' })
      .then(answer => postMessage(answer.status), () => postMessage(0));`;
    const made = new Worker(URL.createObjectURL(new Blob([code])));
    made.onmessage = ({ data }) => (data ? resolve(data) : reject());
    made.onerror = reject;
  });

const socket = url =>
  new Promise((resolve, reject) => {
    const made = new WebSocket(url.replace('http', 'ws'));
    made.onopen = () => resolve('open');
    made.onerror = reject;
  });

/** All at once; `kernelId` is one of the Jupyter user's. */
window.planted = async kernelId => {
  const attempts = {
    'read contents': () => fetch(`${jupyter}api/contents`),
    'read contents with cookies': () => fetch(`${jupyter}api/contents`, cookies),
    'read a page': () => fetch(`${jupyter}login`, cookies),
    'start a kernel': () =>
      fetch(`${jupyter}api/kernels`, {
        ...cookies,
        method: 'POST',
        headers: { 'Content-Type': 'application/json', 'X-XSRFToken': '2|x' },
        body: '{}'
      }),
    'start a kernel, blindly': async () => {
      const how = { ...cookies, method: 'POST', mode: 'no-cors', body: '{}' };
      return (await fetch(`${jupyter}api/kernels`, how)).type;
    },
    'start a kernel by a form': () => form(`${jupyter}api/kernels`),
    'talk to a kernel': () => socket(`${jupyter}api/kernels/${kernelId}/channels`),
    'look into a frame': () => frame(`${jupyter}api/status`),
    'send a worker': () => worker(`${jupyter}api/contents`),
    'take a service worker': () => navigator.serviceWorker.register('x.js'),
    'ask our API with cookies': () => fetch(`${jupyter}comfy-lock/api/locks`, cookies),
    'ask our API with the key': () =>
      fetch(`${jupyter}comfy-lock/api/tasks`, { headers: { Authorization: `ComfyKernel ${key}` } }),
    'use the gateway with cookies': () => fetch(`${gateway}queue`, cookies),
    'use the gateway': () => fetch(`${gateway}queue`)
  };
  const names = Object.keys(attempts);
  const came = await Promise.all(names.map(name => tried(attempts[name])));
  return {
    ...Object.fromEntries(names.map((name, at) => [name, came[at]])),
    origin: self.origin,
    cookie: document.cookie,
    stored: Object.keys(localStorage).filter(name => name.startsWith('jupyter'))
  };
};
