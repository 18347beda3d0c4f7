// An answer as a picture to pass on: photo, name, how sure. Drawn on this device, and given to the device's own sharing or downloads.

import { isCertain, nameOf, sureness } from "./answer.js";
import { text } from "../localisation.js";

const SIDE = 1080; // of the photo's square
const FOOT = 300;
const MARGIN = 56;
const SERIF = '"Iowan Old Style", "Palatino Linotype", Palatino, Georgia, serif';
const SANS = 'system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif';

/**
 * Share an answer, or download it where the browser cannot share pictures.
 *
 * @param {object} answer
 * @param {Blob} blob  The photo.
 */
export async function share(answer, blob) {
  const picture = new File([await drawn(answer, blob)], "fruits.jpg", { type: "image/jpeg" });
  if (navigator.canShare?.({ files: [picture] })) {
    try {
      await navigator.share({ files: [picture], title: nameOf(answer) });
    } catch (error) {
      if (error.name !== "AbortError") download(picture); // the visitor changed their mind, or it is not allowed here
    }
  } else download(picture);
}

function download(picture) {
  const address = URL.createObjectURL(picture);
  const link = document.createElement("a");
  link.href = address;
  link.download = picture.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

async function drawn(answer, blob) {
  const bitmap = await createImageBitmap(blob);
  const canvas = document.createElement("canvas");
  canvas.width = SIDE;
  canvas.height = SIDE + FOOT;
  const context = canvas.getContext("2d", { alpha: false });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, SIDE, SIDE + FOOT);
  const scale = Math.min(SIDE / bitmap.width, SIDE / bitmap.height);
  const [width, height] = [bitmap.width * scale, bitmap.height * scale];
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (SIDE - width) / 2, (SIDE - height) / 2, width, height);
  bitmap.close();
  context.fillStyle = "#1d4a2d";
  context.fillRect(0, SIDE, SIDE, FOOT);
  context.fillStyle = "#f2f8ee";
  written(context, nameOf(answer), `600 %px ${SERIF}`, 84, SIDE + 115);
  context.fillStyle = "#b9d3ba";
  const more = isCertain(answer) ? sureness(answer) : answer.outcome === "unsure" ? answer.kinds.map((kind) => text(kind)).join(", ") : "";
  written(context, more, `400 %px ${SANS}`, 42, SIDE + 185);
  written(context, `fruits · ${text("heading")}`, `400 %px ${SANS}`, 34, SIDE + 258);
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9));
}

/** One line, as large as it fits. */
function written(context, line, font, size, y) {
  do context.font = font.replace("%", size);
  while (context.measureText(line).width > SIDE - 2 * MARGIN && (size -= 2) > 18);
  context.fillText(line, MARGIN, y, SIDE - 2 * MARGIN);
}
