// What happens with the next photo: kept or not, shown or not, sent or not. One line says it; its details are the choices.
//
// The line always says what is true now, so that nobody has to open the details to know.

import { say } from "../localisation.js";

const $ = (id) => document.getElementById(id);

export class Choices {
  #keep = $("keep");
  #show = $("show");
  #device;

  /** @param {import("../device/device-switch.js").DeviceSwitch} device */
  constructor(device) {
    this.#device = device;
    for (const box of [this.#keep, this.#show]) box.addEventListener("change", () => this.#changed());
    this.#changed();
  }

  /** Whether a photo that is sent now may be kept. */
  get keep() {
    return this.#keep.checked && !this.#device.on;
  }

  /** Whether others may see it, too. */
  get show() {
    return this.keep && this.#show.checked;
  }

  /** The switch "On this device only" was turned: what is not sent cannot be kept. */
  turned() {
    this.#keep.disabled = this.#device.on;
    say(document.querySelector("[data-t=keep_more]"), this.#device.on ? "keep_device" : "keep_more");
    if (this.#device.on) this.#keep.checked = false;
    this.#changed();
  }

  sayWay() {
    const { state } = this.#device;
    if (state) say($("way"), state.key, state.values);
    else say($("way"), this.show ? "way_shown" : this.keep ? "way_kept" : "way_sent");
    $("consent").classList.toggle("on-device", Boolean(state));
  }

  /** A photo that is not kept cannot be shown; the second consent is never given by itself. */
  #changed() {
    this.#show.disabled = !this.#keep.checked;
    this.#show.checked &&= this.#keep.checked;
    this.sayWay();
  }
}
