// Stand-ins for what a page without an origin does not have: the browser keeps nothing for it and
// throws when it is asked to. These live as long as the page.
(() => {
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
})();
