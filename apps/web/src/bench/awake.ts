/** Keeps the screen on, where the browser can, and tells whether the page was out of sight, when a phone lets it sleep. */

export class Awake {
  private lock: WakeLockSentinel | null = null;
  private left = 0; // how often the page was left
  private wanted = false;

  constructor(private readonly say: (words: string) => void) {
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.left++;
      else if (this.wanted) void this.keep();
    });
  }

  async keep(): Promise<void> {
    this.wanted = true;
    try {
      this.lock = await navigator.wakeLock.request("screen");
      this.say("The screen stays on while this page is in front.");
    } catch {
      this.say("This browser cannot keep the screen on: touch it now and then, or set a longer time in the settings.");
    }
  }

  async release(): Promise<void> {
    this.wanted = false;
    await this.lock?.release().catch(() => undefined);
  }

  /** What `run` gives while the page was in sight all the time; begins anew whenever it was not. */
  async inSight<T>(run: () => Promise<T>): Promise<T> {
    for (;;) {
      await seen();
      const before = this.left;
      const made = await run();
      if (this.left === before) return made;
    }
  }
}

function seen(): Promise<void> {
  if (!document.hidden) return Promise.resolve();
  return new Promise((done) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      done();
    };
    document.addEventListener("visibilitychange", look);
  });
}
