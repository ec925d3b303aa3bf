// A program with @pyroscope/nodejs as its README has it.
const Pyroscope = require("@pyroscope/nodejs");

Pyroscope.init({
  serverAddress: process.env.PYROSCOPE_SERVER,
  appName: "node.purchases",
  tags: { region: "here" },
});
Pyroscope.start();

function pay(milliseconds) {
  let sum = 0;
  for (const end = Date.now() + milliseconds; Date.now() < end; ) sum += Math.sqrt(sum + 1);
  return sum;
}

let rounds = 0;
const timer = setInterval(async () => {
  pay(100);
  rounds += 1;
  if (rounds < 30) return;
  clearInterval(timer);
  // What was not sent yet is sent now.
  await Pyroscope.stop();
}, 10);
