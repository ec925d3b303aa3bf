// Why a frame is not known, in a sentence, and what can be done about it.

const REASONS: Record<string, string> = {
  "[no frame pointer]":
    "The code below keeps no frame pointers, and there was no unwind table for it, or not yet: a program's first moments may look like this. If it stays, build it with unwind tables (-fasynchronous-unwind-tables) or with frame pointers (-fno-omit-frame-pointer; Rust: -C force-frame-pointers=yes).",
  "[stack unreadable]": "The stack could not be read at that moment: its memory was paged out or never written.",
  "[stack too deep]": "The stack is deeper than is walked. What is nearest to the root, or to the leaf, was left out.",
  "[no unwind rule]": "The code's unwind table says how to go on in a way that a walk cannot follow: hand-written code, mostly.",
  "[no mapping]": "The address lies in no file that the process had mapped at that moment.",
  "[anonymous code]": "Code that a program made at run time, as a JIT compiler does: there is no file to take names from.",
  "[process unknown]": "The process was gone before anything could be learnt about it.",
};

/** What a frame such as `[no frame pointer]` means. */
export function explain(name: string): string {
  return REASONS[name] ?? "This frame could not be known. Its time is real and is kept here.";
}
