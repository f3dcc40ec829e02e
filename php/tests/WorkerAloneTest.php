<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Tests\Support\Folder;
use Roster\Tests\Support\Process;
use Roster\Tests\Support\Supervisor;

/** A process without a sidecar of its own, since that is gone or the process is a fork, does not go on as a worker. */
final class WorkerAloneTest extends TestCase
{
    private Folder $folder;

    protected function setUp(): void
    {
        $this->folder = new Folder();
    }

    /** @dataProvider reports */
    public function testAJobWhoseSidecarIsGoneIsToldWhenItReports(string $report): void
    {
        $sidecar = $this->start('$worker->perform("q", function ($job) use ($worker) {'
            . ' file_put_contents("begun", ""); while (!file_exists("gone")) { usleep(2_000); }'
            . ' $before = memory_get_usage();'
            . " try { for (\$times = 0; \$times < 100; \$times++) { $report; } } catch (Roster\\Exception\\Disconnected) {"
            . ' file_put_contents("told", (string) (memory_get_usage() - $before)); } });');
        $sidecar->begin(self::job('job'));
        Process::until(fn () => is_file("{$this->folder->path}/begun"), 'it is begun');
        $sidecar->close();
        $this->folder->file('gone', '');
        self::assertSame(255, $sidecar->worker->await());
        self::assertFileExists("{$this->folder->path}/told", $sidecar->worker->output());
        self::assertLessThan(5 << 20, (int) file_get_contents("{$this->folder->path}/told"));
    }

    public static function reports(): array
    {
        return [
            ['$job->touch()'], ['$job->progress(1)'], ['$worker->send(str_repeat("x", 500_000))'],
            ['$worker->broadcast(str_repeat("x", 500_000))'],
        ];
    }

    public function testWhatIsLoggedOnceTheSidecarIsGoneGoesToStandardError(): void
    {
        $sidecar = $this->start('$worker->perform("q", function ($job) use ($worker) {'
            . ' file_put_contents("begun", ""); while (!file_exists("gone")) { usleep(2_000); }'
            . ' try { $job->touch(); } catch (Throwable) {} $worker->log()->info("its last word"); });');
        $sidecar->begin(self::job('job'));
        Process::until(fn () => is_file("{$this->folder->path}/begun"), 'it is begun');
        $sidecar->close();
        $this->folder->file('gone', '');
        self::assertSame(255, $sidecar->worker->await());
        self::assertStringContainsString('its last word', $sidecar->worker->output());
    }

    /** @requires extension pcntl */
    public function testAForkThatGoesOnIsNoSecondWorker(): void
    {
        $sidecar = $this->start('$worker->perform("q", function ($job) {'
            . ' return $job->name === "fork" && pcntl_fork() === 0 ? "child" : getmypid(); });');
        $uuid = $sidecar->begin(self::job('fork'));
        $parent = $sidecar->worker->id;
        self::assertSame([["$parent"], null], $sidecar->answer($uuid));
        Process::until(fn () => str_contains($sidecar->worker->output(), 'end it by exit()'), 'the fork says why it ends');
        for ($times = 0; $times < 20; $times++) {
            self::assertSame([["$parent"], null], $sidecar->ask(self::job('x')));
        }
        self::assertFalse($sidecar->has('data'), 'there is one answer alone');
    }

    /** @requires extension pcntl */
    public function testAForkOfAMethodWithManyValuesGivesNone(): void
    {
        $sidecar = $this->start('$worker->offer("demo", new class { function values() {'
            . ' yield 1; $child = pcntl_fork(); yield 2; file_put_contents("values", "$child ", FILE_APPEND); yield 3; } });');
        self::assertSame([[1, 2, 3], null], $sidecar->call('values'));
        Process::until(fn () => str_contains($sidecar->worker->output(), 'end it by exit()'), 'the fork says why it ends');
        self::assertStringStartsNotWith('0 ', (string) file_get_contents("{$this->folder->path}/values"));
        self::assertSame(1, substr_count((string) file_get_contents("{$this->folder->path}/values"), ' '));
    }

    /** @requires extension pcntl */
    public function testAForkThatUsesTheWorkerIsToldSoAndCostsItsParentNothing(): void
    {
        $sidecar = $this->start('$worker->perform("q", function ($job) use ($worker) {'
            . ' if ($job->name !== "fork") { return 7; }'
            . ' if (pcntl_fork() === 0) { try { $job->touch(); } catch (Roster\Exception\Disconnected $it) {'
            . ' $worker->log()->info($it->getMessage()); } exit; } pcntl_wait($status); return 8; });');
        self::assertSame([['8'], null], $sidecar->ask(self::job('fork')));
        self::assertStringContainsString('info: this is a fork', $sidecar->worker->output());
        self::assertSame([['7'], null], $sidecar->ask(self::job('x')));
        self::assertFalse($sidecar->has('worker-job'));
    }

    /** @return array<string, mixed> the command to perform one */
    private static function job(string $name): array
    {
        $data = ['id' => 1, 'attempt' => 1, 'queue' => 'q', 'payload' => '[]', 'keepsResult' => true] + compact('name');
        return ['cmd' => 'worker-command', 'name' => 'roster:perform', 'data' => $data];
    }

    /** A worker of this code, in the folder of the test. */
    private function start(string $code): Supervisor
    {
        $script = '<?php require ' . var_export(dirname(__DIR__) . '/autoload.php', true) . '; chdir(__DIR__);'
            . "\$worker = Roster\\Worker::fromEnvironment(); $code \$worker->ready(); \$worker->run();";
        $command = [PHP_BINARY, '-d', 'display_errors=stderr', $this->folder->file('worker.php', $script)];
        $sidecar = new Supervisor(command: $command);
        $sidecar->receive('worker-ready');
        return $sidecar;
    }
}
