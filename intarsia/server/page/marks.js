/** The marks above picture and mask: the box that will be generated, the tool in hand, or the seam of a result. */

import { followsMask, generatedBox } from "./generated_box.js";
import { outlined } from "./tools.js";

/**
 * @param {import("./app.js").App} app
 * @param {CanvasRenderingContext2D} context
 */
export function drawMarks(app, context) {
  const { stage, editor, result } = app;
  if (result.isOpen) {
    result.marks(context);
    return;
  }
  const box = boxOf(app);
  if (box !== null) {
    const from = stage.view.toStage({ x: box[0], y: box[1] });
    const to = stage.view.toStage({ x: box[2], y: box[3] });
    context.setLineDash([6 * stage.ratio, 4 * stage.ratio]);
    outlined(context, stage, () => context.rect(from.x, from.y, to.x - from.x, to.y - from.y));
    context.setLineDash([]);
  }
  if (editor.canEdit()) editor.tool.marks(context, stage, editor.cursor);
}

/**
 * @param {import("./app.js").App} app
 * @returns {import("./shapes.js").Box | null} null where all of the picture is generated
 */
export function boxOf({ stage: { picture, mask }, controls, settings }) {
  const bounds = mask?.bounds() ?? null;
  if (controls === null || picture === null || mask === null || bounds === null) return null;

  const fields = settings();
  const padding = controls.value("mask_padding").trim() || "auto";
  const size = { native: controls.model?.size ?? 512, width: fields?.width ?? null, height: fields?.height ?? null };
  if (fields?.fit_output || !followsMask(picture, { padding, ...size })) return null;
  const grow = Number(fields?.mask_dilate ?? 0);
  const grown = mask.clip([bounds[0] - grow, bounds[1] - grow, bounds[2] + grow, bounds[3] + grow]) ?? bounds;
  return generatedBox(picture, grown, {
    padding: Number(padding) || 0,
    blur: controls.number("mask_blur") ?? 0,
    ...size,
  });
}
