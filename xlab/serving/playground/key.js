/** The API key: asked for when the service wants one, and kept in this tab alone. */

const NAME = "xlab.key";
const dialog = document.getElementById("ask");
const field = document.getElementById("ask-key");
const forget = document.getElementById("key");
let asking = null;

/** @returns {string | null} */
export const storedKey = () => sessionStorage.getItem(NAME);

/**
 * Ask for the key; callers that ask at once share one answer.
 * @param {string} why
 * @returns {Promise<boolean>} whether one was given
 */
export function askForKey(why) {
  asking ??= new Promise((resolve) => {
    document.getElementById("ask-why").textContent = why;
    field.value = "";
    dialog.returnValue = ""; // Escape leaves it as it is
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "give"), { once: true });
    dialog.showModal();
  }).then((isGiven) => {
    asking = null;
    if (isGiven) sessionStorage.setItem(NAME, field.value.trim());
    field.value = "";
    showForget();
    return isGiven;
  });
  return asking;
}

function showForget() {
  forget.hidden = storedKey() === null;
}

document.getElementById("ask-cancel").addEventListener("click", () => dialog.close());
forget.addEventListener("click", () => {
  sessionStorage.removeItem(NAME);
  showForget();
});
showForget();
