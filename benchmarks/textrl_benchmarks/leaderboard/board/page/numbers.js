// Numbers as text, and the little arithmetic that drawing needs.

const isNumber = (value) => typeof value === "number";
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// A missing number is a dash; the minus is a minus, and zero has none.
function number(value, digits = 3) {
  if (!isNumber(value)) return "—";
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

function interval({ low, high }, digits = 3) {
  return isNumber(low) && isNumber(high) ? `${number(low, digits)} to ${number(high, digits)}` : "—";
}

const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const whole = new Intl.NumberFormat("en");
const count = (value) => (isNumber(value) ? (value < 1e4 ? whole : short).format(value) : "—");
const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

function duration(seconds) {
  if (!isNumber(seconds)) return "—";
  if (seconds < 90) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return seconds < 5400 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// Half width of the 95 % interval of a mean: Student's quantile for n - 1 degrees of freedom.
const STUDENT = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];
function halfWidth(values) {
  const n = values.length;
  if (n < 2) return null;
  const middle = mean(values);
  const variance = values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (n - 1);
  return (STUDENT[n - 2] ?? 1.96 + 2.4 / (n - 1)) * Math.sqrt(variance / n);
}

// Round numbers from low to high, about `wanted` of them.
const decimalsOf = (values) => {
  const step = values.length > 1 ? values[1] - values[0] : 1;
  return Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));
};
function ticks(low, high, wanted = 5) {
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((one) => one >= raw * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(8)));
}
