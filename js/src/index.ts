import type {
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { ICommandPalette, showErrorMessage } from '@jupyterlab/apputils';

import { PinKeeper } from './pin';
import { showPool } from './pool_dialog';
import { ComfyLockClient } from './rest';

const SHOW_POOL = 'comfy-lock:show-pool';

const pool: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-comfy-lock:pool',
  description: 'Shows the pool of ComfyUI servers.',
  autoStart: true,
  optional: [ICommandPalette],
  activate: (app: JupyterFrontEnd, palette: ICommandPalette | null) => {
    const client = new ComfyLockClient(app.serviceManager.serverSettings);
    app.commands.addCommand(SHOW_POOL, {
      label: 'ComfyUI: Show the pool',
      caption: 'Which ComfyUI servers there are, how they are and who uses them',
      execute: async () => {
        try {
          await showPool(await client.pool());
        } catch (error) {
          await showErrorMessage('ComfyUI servers', String(error));
        }
      }
    });
    palette?.addItem({ command: SHOW_POOL, category: 'ComfyUI' });
  }
};

const pin: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-comfy-lock:pin',
  description: 'Keeps the pin that a kernel tells with its notebook.',
  autoStart: true,
  activate: (app: JupyterFrontEnd) => {
    // Every notebook that is opened from now on, in JupyterLab as in Notebook 7.
    app.docRegistry.addWidgetExtension('Notebook', new PinKeeper());
  }
};

export default [pool, pin];
