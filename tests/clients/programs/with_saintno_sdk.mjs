// Does things with @saintno/comfyui-sdk.
import { readFile } from "node:fs/promises";

import { CallWrapper, ComfyApi, PromptBuilder } from "@saintno/comfyui-sdk";

const [url, verb, ...texts] = process.argv.slice(2);
const api = new ComfyApi(url);

const verbs = {
  async picture(prompt) {
    await api.init(1, 100).waitForReady();
    const builder = new PromptBuilder(prompt, [], ["save"]).setOutputNode("save", "3");
    const progress = [];
    const said = await new Promise((resolve, reject) => {
      new CallWrapper(api, builder)
        .onProgress(({ value, max }) => progress.push([value, max]))
        .onFinished((outputs, prompt_id) => resolve({ outputs, prompt_id }))
        .onFailed(reject)
        .run();
    });
    const picture = await file(said.outputs.save.images[0]);
    return { prompt_id: said.prompt_id, picture, progress };
  },
  async upload(path) {
    const { info } = await api.uploadImage(await readFile(path), path, { override: true });
    return info.filename;
  },
  interrupt: () => api.interrupt(),
  clear: () => api.manageQueue({ clear: true }),
  async queue() {
    const told = await api.getQueue();
    return [...told.queue_running, ...told.queue_pending].map((item) => item[1]);
  },
  file,
};

async function file(image) {
  const response = await fetch(api.getPathImage(image));
  return response.ok ? Buffer.from(await response.arrayBuffer()).toString("base64") : null;
}

const said = await verbs[verb](...texts.map((text) => JSON.parse(text)));
api.destroy();
console.log(JSON.stringify(said ?? null));
process.exit(0);
