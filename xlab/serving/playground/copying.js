/** Copy text: to the clipboard, or, where a page may not reach it (plain HTTP), into a dialog to copy by hand. */

const dialog = document.getElementById("copy");

/** @returns {Promise<boolean>} whether it is on the clipboard */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = dialog.querySelector("textarea");
    field.value = text;
    dialog.showModal();
    field.select();
    return false;
  }
}
