// The switch "On this device only": whether it is on, what it says, and the model behind it.
//
// While it is on no photo may be sent, whether or not the model has loaded: code that sends photos asks `on` in the same moment. The
// choice of an earlier visit is taken up by the constructor, before any photo can come in. If the model cannot be loaded the
// switch stays on, and the visitor is asked. Knows nothing of photos.

import { Device, WHY, canRunHere } from "./device.js";
import { Refused } from "../api.js";
import { megabytes, percent, say } from "../localisation.js";

const REMEMBERED = "fruits.device";
const $ = (id) => document.getElementById(id);

export class DeviceSwitch {
  #box = $("device");
  #state = $("device-state");
  #turned;
  #announce;
  #said;
  #share = 0;
  #size = null;
  #device = null; // another one each time it is switched on, so that nothing of an earlier choice comes in between
  #opening = null;
  #problem = null;
  #loaded = false;

  /**
   * @param {{turned: () => void, announce: (key: string) => void, said: () => void}} tell  `turned`: it was switched, or the model
   *   came or failed; `said`: its state is another one.
   */
  constructor({ turned, announce, said }) {
    this.#turned = turned;
    this.#announce = announce;
    this.#said = said;
    this.#box.checked = remembered(); // a browser may have restored another state
    if (this.on) $("device-choice").hidden = false;
  }

  /** Whether photos must stay on this device. */
  get on() {
    return this.#box.checked;
  }

  /** Whether photos can be looked at here now. */
  get loaded() {
    return this.on && this.#loaded;
  }

  /** Whether the model could not be loaded. */
  get failed() {
    return this.on && this.#problem !== null;
  }

  /** What it says while it is on, as a key with its values; null while it is off. */
  get state() {
    if (!this.on) return null;
    if (this.#problem) return { key: this.#problem };
    if (this.#loaded) return { key: "device_ready" };
    const share = this.#share;
    return { key: "device_loading", values: { get share() { return percent(share); } } };
  }

  /** Listen to the visitor; load the model if it was chosen before. */
  start() {
    this.#box.addEventListener("change", () => this.turn(this.on));
    $("device-again").addEventListener("click", () => this.open());
    $("device-off").addEventListener("click", () => this.turn(false));
    addEventListener("online", () => this.failed && this.#problem === "device_offline" && this.open());
    // Switched on in another tab, or before the visitor came back to this one.
    const follow = () => !this.on && remembered() && this.turn(true);
    addEventListener("storage", ({ key }) => key === REMEMBERED && follow());
    addEventListener("pageshow", ({ persisted }) => persisted && follow());
    if (this.on) this.turn(true);
    this.#offer().catch(() => {}); // without a connection there is nothing to offer
  }

  turn(on) {
    this.#box.checked = on;
    remember(on);
    if (on) {
      $("device-choice").hidden = false;
      this.open();
      return;
    }
    this.#device?.close();
    this.#device = this.#opening = this.#problem = null;
    this.#loaded = false;
    this.#say();
    this.#turned();
  }

  /** Load the model, again if it could not be loaded. */
  open() {
    this.#device?.close();
    const device = (this.#device = new Device());
    const now = (change) => {
      if (this.#device !== device) return; // switched meanwhile
      change();
      this.#say();
      this.#turned();
      if (this.#problem ?? this.#loaded) this.#announce(this.#problem ?? "device_ready");
    };
    const failed = (error) =>
      now(() => {
        this.#loaded = false;
        this.#problem = WHY[error.code] ?? "device_failed";
        this.#opening = Promise.reject(error);
        this.#opening.catch(() => {});
      });
    this.#loaded = false;
    this.#problem = null;
    this.#share = 0;
    this.#opening = device.open(
      (share) => {
        if (this.#device !== device || this.#problem) return;
        this.#share = share;
        this.#say();
      },
      () => failed(new Error("the worker stopped")),
    );
    this.#opening.then(() => now(() => (this.#loaded = true)), failed);
    this.#say();
    this.#turned();
  }

  /** Return the device once photos can be looked at on it; rejected if it cannot be loaded, or with "left" if it is switched off. */
  async ready() {
    if (!this.#opening) throw new Refused("left", null);
    const device = this.#device;
    await this.#opening;
    return device;
  }

  #say() {
    const whole = this.#size;
    $("device-ask").hidden = !this.failed;
    $("device-again").hidden = this.#problem === "device_updated"; // only another page helps
    const now = this.state;
    this.#said();
    if (now) say(this.#state, now.key, now.values);
    else if (whole === null) say(this.#state, "device_plain");
    else say(this.#state, "device_more", { get size() { return megabytes(whole); } });
  }

  /** Offer the mode; how much it loads is asked of the service once somebody looks at the choices. */
  async #offer() {
    if (!(await canRunHere())) return;
    $("device-choice").hidden = false;
    const sized = async () => {
      if (this.#size !== null || !$("consent").open) return;
      this.#size = await new Device().available().catch(() => null);
      if (!this.on) this.#say();
    };
    $("consent").addEventListener("toggle", sized);
    await sized();
  }
}

function remembered() {
  try {
    return localStorage.getItem(REMEMBERED) === "yes";
  } catch {
    return false;
  }
}

function remember(on) {
  try {
    if (on) localStorage.setItem(REMEMBERED, "yes");
    else localStorage.removeItem(REMEMBERED);
  } catch {
    // Then it is chosen again next time.
  }
}
