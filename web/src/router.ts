// What can be changed of an arm's router while it runs.

import { disable, field, h, text } from "./dom";
import type { ArmInfo, ArmView, PolicyInfo } from "./wire";

/** Parameters with a slider beside the number, and where it ends. */
const SLIDERS: Record<string, [number, number]> = { overlap_weight: [4, 0.1], temperature: [2, 0.05] };

export class Router {
  readonly element: HTMLElement;
  private readonly policy: HTMLSelectElement;
  private readonly rule = h("p", { class: "quiet" });
  private readonly delay: HTMLInputElement;
  private readonly loss: HTMLInputElement;
  private readonly parameters = h("div", { class: "parameters" });
  private readonly inputs = new Map<string, HTMLInputElement[]>();
  private shown = "";

  constructor(
    arm: ArmInfo,
    private readonly policies: PolicyInfo[],
    private readonly change: (keys: Record<string, unknown>) => void,
    cannot: string | null,
  ) {
    this.policy = h("select", { onchange: () => change({ what: "policy", policy: this.policy.value }) });
    for (const policy of policies) this.policy.append(h("option", { value: policy.name }, policy.name));
    this.delay = h("input", { type: "number", min: 0, step: 1, onchange: () => change({ what: "feed", delay: `${this.delay.value}ms` }) });
    this.loss = h("input", { type: "number", min: 0, max: 1, step: 0.01, onchange: () => change({ what: "feed", loss_ratio: Number(this.loss.value) }) });
    if (cannot) disable(cannot, this.delay, this.loss);
    this.element = h("div", { role: "group", "aria-label": `Router of ${arm.name}` },
      h("div", { class: "parameters" }, field("Policy", this.policy, "Takes over with an empty index"), field("Feed delay, ms", this.delay, "From publication of a KV event to its visibility"), field("Feed loss, 0 to 1", this.loss, "Share of KV events that never arrive")),
      cannot && h("p", { class: "quiet" }, `Greyed out: ${cannot}.`), this.rule, this.parameters);
  }

  private build(name: string): void {
    this.shown = name;
    this.inputs.clear();
    const policy = this.policies.find((one) => one.name === name);
    text(this.rule, policy?.rule ?? "");
    const fields = (policy?.parameters ?? []).map(({ name, doc, allowed }) => {
      const set = (input: HTMLInputElement) => input.value !== "" && this.change({ what: "parameter", key: name, value: Number(input.value) });
      const input: HTMLInputElement = h("input", { type: "number", step: "any", placeholder: "off", onchange: () => set(input) });
      const inputs = [input];
      const slider = SLIDERS[name];
      const whole = field(name, input, `${doc} ${allowed}`);
      if (slider) {
        const [max, step] = slider;
        const range: HTMLInputElement = h("input", { type: "range", min: 0, max, step, "aria-label": name, onchange: () => set(range) });
        whole.append(range);
        inputs.push(range);
      }
      this.inputs.set(name, inputs);
      return whole;
    });
    this.parameters.replaceChildren(...fields);
  }

  update(view: ArmView): void {
    if (this.shown !== view.policy) this.build(view.policy);
    const set = (input: HTMLInputElement | HTMLSelectElement, value: string) => {
      if (document.activeElement !== input && input.value !== value) input.value = value;
    };
    set(this.policy, view.policy);
    set(this.delay, String(view.feed_delay_ms));
    set(this.loss, String(view.feed_loss_ratio));
    for (const [name, inputs] of this.inputs) {
      const value = view.parameters[name];
      for (const input of inputs) set(input, value === null || value === undefined ? "" : String(value));
    }
  }
}
