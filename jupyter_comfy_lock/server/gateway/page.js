// What ComfyUI's page lacks for want of an origin, as far as it cannot do without.
(() => {
  // The browser keeps nothing for such a page and throws when asked to. These live as long as it.
  class Store {
    getItem(key) {
      return Object.hasOwn(this, key) ? this[key] : null;
    }
    setItem(key, value) {
      this[key] = String(value);
    }
    removeItem(key) {
      delete this[key];
    }
    clear() {
      for (const key of Object.keys(this)) delete this[key];
    }
    key(index) {
      return Object.keys(this)[index] ?? null;
    }
    get length() {
      return Object.keys(this).length;
    }
  }
  const stand = (owner, name, found) =>
    Object.defineProperty(owner, name, { configurable: true, ...found });
  stand(window, 'localStorage', { value: new Store() });
  stand(window, 'sessionStorage', { value: new Store() });
  stand(document, 'cookie', { get: () => '', set: () => {} });

  // To such a page all files are another site's, which a browser opens in place of the page.
  const save = async ({ href, download }) => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(await (await fetch(href)).blob());
    link.download = download;
    link.click();
    URL.revokeObjectURL(link.href);
  };
  addEventListener('click', event => {
    const link = event.target.closest?.('a[download]');
    if (link?.href.startsWith(`${location.origin}/`)) {
      event.preventDefault();
      save(link);
    }
  });
})();
