// From a file that a person picked to the small JPEG that is looked at: upright, on white, without any byte of the original.
//
// The browser's own decoder reads whatever it can, HEIC on an iPhone too. Place, date and camera stay behind with the file, and so
// does its colour profile: the canvas is in sRGB, and drawing converts, as photos/decoding/colour.py does on the server.

export const LONGEST = 1024;
export const QUALITY = 0.9;

export class Unreadable extends Error {}

/**
 * Scale a photo down.
 *
 * @param {Blob} file
 * @returns {Promise<{blob: Blob, width: number, height: number}>}
 */
export async function shrink(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "default" });
  } catch {
    throw new Unreadable(file.type);
  }
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * scale));
  const height = Math.max(1, Math.round(bitmap.height * scale));
  let source = bitmap;
  // By halves, as some browsers look at four neighbours only, however far apart.
  while (source.width > 2 * width || source.height > 2 * height) {
    source = drawn(source, Math.max(width, Math.ceil(source.width / 2)), Math.max(height, Math.ceil(source.height / 2)));
  }
  const canvas = drawn(source, width, height);
  bitmap.close();
  const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));
  canvas.width = canvas.height = 0; // gives the memory back at once; phones have little
  if (!blob) throw new Unreadable("no memory");
  return { blob, width, height };
}

/**
 * Decode what {@link shrink} made.
 *
 * @param {Blob} blob
 * @returns {Promise<{width: number, height: number, rgb: Uint8Array}>}
 */
export async function pixels(blob) {
  const bitmap = await createImageBitmap(blob);
  const { width, height } = bitmap;
  const canvas = drawn(bitmap, width, height);
  bitmap.close();
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  canvas.width = canvas.height = 0;
  const rgb = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    rgb[to] = data[from];
    rgb[to + 1] = data[from + 1];
    rgb[to + 2] = data[from + 2];
  }
  return { width, height, rgb };
}

function drawn(source, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { alpha: false, colorSpace: "srgb" });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, width, height);
  if (source instanceof HTMLCanvasElement) source.width = source.height = 0;
  return canvas;
}
