/** Ideas for a prompt: of the embedded emoji world for its models, of everyday things for others; never what was erased. */

export interface Concept {
  name: string;
  kind: string;
  terms: string[];
}

const EMOJI = [
  "fox", "panda", "penguin", "octopus", "owl", "butterfly", "frog", "cat", "dog", "lion", "turtle", "whale", "snail", "pig",
  "strawberry", "pizza", "doughnut", "hamburger", "pineapple", "watermelon", "cherries", "red apple", "birthday cake", "soft ice cream",
  "rocket", "sailboat", "automobile", "bicycle", "guitar", "crown", "balloon", "umbrella", "sunflower", "cactus", "mushroom", "rose",
]; // prettier-ignore
const LOOKS = ["", "", "", "", "", "", "", " pencil sketch style", " mosaic style", " sepia style", " blueprint style", " neon style"]; // as its captions have them
const OPEN = [
  "a lighthouse at sunset", "a black cat asleep on a sofa", "a hot air balloon above a valley", "a bowl of fresh strawberries",
  "a penguin on the ice", "a sailing boat at sea", "a cactus in a clay pot", "a slice of chocolate cake", "a squirrel on a fence",
  "a green teapot and two cups", "a castle on a cliff", "a frog on a lily pad", "a snowy mountain under a blue sky",
  "a yellow taxi in the rain", "a field of yellow tulips", "a campfire beside a tent",
]; // prettier-ignore

/** The erased concept that the words ask for, if any. */
export function asksFor(words: string, concepts: Concept[]): Concept | undefined {
  const plain = ` ${words.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, " ")} `;
  const has = (term: string) => plain.includes(` ${term.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, " ").trim()} `);
  return concepts.find((concept) => [concept.name, ...concept.terms].some(has));
}

/** `count` of them, drawn anew. random: in [0, 1). */
export function ideas(count: number, baseModel: string, concepts: Concept[], random = Math.random): string[] {
  const emoji = baseModel.startsWith("emoji:");
  const found = new Set<string>();
  for (let tries = 0; tries < 200 && found.size < count; tries++) {
    const subject = pick(emoji ? EMOJI : OPEN, random);
    const idea = emoji ? subject + pick(LOOKS, random) : subject;
    if (!asksFor(idea, concepts) && ![...found].some((other) => other.startsWith(subject))) found.add(idea);
  }
  return [...found];
}

function pick(list: string[], random: () => number): string {
  return list[Math.floor(random() * list.length)]!;
}
