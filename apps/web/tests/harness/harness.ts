/** A page that holds nothing but the engine, for tests/apps/test_engine.py to drive. */

import { Model } from "../../src/engine/client";

declare global {
  interface Window {
    Model: typeof Model;
    base64: (bytes: Uint8ClampedArray) => string;
  }
}

window.Model = Model;
window.base64 = (bytes) => {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
};
