/** Tells when a load seems stuck: when nothing moves though the worker answers at once, so that it computes nothing.
 *
 * Counted in ticks of a timer, not in time: a page that a phone put to sleep does not tick.
 */

export const TICK_MS = 5_000;
export const WAITING = 12; // ticks of a worker that answers, or never did: it waits for a network, a thread or a graphics processor
export const COMPUTING = 60; // of one that stopped to answer: a slow device computes for minutes

export class Watch {
  private readonly timer: ReturnType<typeof setInterval>;
  private waiting = 0;
  private computing = 0;
  private isAsked = false; // and has not answered yet
  private isMet = false; // has answered once
  private isStuck = false;

  constructor(
    private readonly ping: () => Promise<unknown>,
    private readonly tell: (isStuck: boolean) => void,
  ) {
    this.timer = setInterval(() => this.tick(), TICK_MS);
  }

  /** Something moved. */
  progress(): void {
    this.waiting = this.computing = 0;
    this.isMet = true;
    this.change(false);
  }

  end(): void {
    clearInterval(this.timer);
    this.change(false);
  }

  private tick(): void {
    if (this.isAsked && this.isMet) this.computing++;
    else this.waiting++;
    if (!this.isAsked) void this.ask();
    if (this.waiting >= WAITING || this.computing >= COMPUTING) this.change(true);
  }

  private async ask(): Promise<void> {
    this.isAsked = true;
    await this.ping().catch(() => undefined); // of a worker that was ended: nobody listens any more
    this.isAsked = false;
    this.isMet = true;
  }

  private change(isStuck: boolean): void {
    if (this.isStuck !== isStuck) this.tell(isStuck);
    this.isStuck = isStuck;
  }
}
